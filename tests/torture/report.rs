//! The report of a run, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::environment::Verification;
use crate::faults::{FaultKind, FaultRecord};
use crate::oracle::Findings;
use crate::records::Records;

/// The maximum number of problems of each kind in the text. The JSON has all.
const MAX_SHOWN: usize = 10;

/// The results of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub passed: bool,
    /// The command that repeats the schedule.
    pub command: String,
    pub seed: u64,
    pub seconds: f64,
    pub clients: u32,
    pub faults: BTreeMap<FaultKind, usize>,
    pub requests: u64,
    pub requests_per_second: f64,
    pub writes: WriteCounts,
    /// Latency of definite responses, in milliseconds.
    pub latency_ms: Percentiles,
    /// Time from a write's first attempt to its definite response, in milliseconds.
    pub resolution_ms: Percentiles,
    /// Time from the recovery of the last fault until the replicated tables equalled their sources;
    /// `None` if it exceeds 60 s.
    pub seconds_to_converge: Option<f64>,
    /// The maximum of that time.
    pub converge_within: f64,
    pub lost: usize,
    pub duplicated: usize,
    pub oversold: usize,
    pub dead_letters: usize,
    pub unresolved: usize,
    pub wrong_responses: usize,
    pub internal_errors: usize,
    pub verification: Verification,
    /// Exits of processes that the test did not cause.
    pub unexpected_exits: Vec<String>,
    pub problems: BTreeMap<&'static str, Vec<String>>,
    pub past_faults: Vec<FaultRecord>,
}

/// Counts of writes.
#[derive(Debug, Serialize)]
pub struct WriteCounts {
    pub acknowledged: u64,
    pub refused: u64,
    pub retried: u64,
    pub unknown: u64,
    pub replayed: u64,
}

/// Percentiles of durations, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Percentiles {
    pub fn of(mut durations: Vec<Duration>) -> Percentiles {
        durations.sort_unstable();
        let at = |share: f64| {
            let index = (durations.len().saturating_sub(1) as f64 * share).round() as usize;
            durations.get(index).map_or(0.0, |found| found.as_secs_f64() * 1000.0)
        };
        Percentiles { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// The parameters and the outcome of a run.
pub struct Run<'r> {
    pub command: String,
    pub seed: u64,
    pub seconds: f64,
    pub clients: u32,
    pub converge_within: f64,
    pub records: &'r Records,
    pub faults: Vec<FaultRecord>,
    pub converged: Result<f64, String>,
    pub findings: Findings,
    pub verification: Verification,
    pub unexpected_exits: Vec<String>,
    pub failed_stops: Vec<String>,
}

impl Report {
    pub fn of(run: Run) -> Report {
        let Run { records, findings, .. } = run;
        let mut faults = BTreeMap::new();
        for fault in &run.faults {
            *faults.entry(fault.kind).or_default() += 1;
        }
        let seconds_to_converge = run.converged.as_ref().ok().copied();
        let (lost, duplicated) = (findings.lost.len(), findings.duplicated.len());
        let (oversold, dead_letters) = (findings.oversold.len(), findings.dead_letters.len());
        let differs = match &run.verification {
            Verification::Differs(output) => vec![output.clone()],
            Verification::Balanced => vec![],
        };
        let late = match run.converged {
            Ok(seconds) if seconds > run.converge_within => vec![format!("after {seconds:.1} s")],
            Ok(_) => vec![],
            Err(difference) => vec![difference],
        };
        let problems = BTreeMap::from([
            ("lost", findings.lost),
            ("duplicated", findings.duplicated),
            ("oversold", findings.oversold),
            ("dead letters", findings.dead_letters),
            ("unresolved", records.unresolved.clone()),
            ("wrong responses", records.wrong_responses.clone()),
            ("responses with status 500", records.internal_errors.clone()),
            ("not converged", late),
            ("shop verify", differs),
            ("not stopped gracefully", run.failed_stops),
        ]);
        let writes = records.writes;
        Report {
            passed: problems.values().all(Vec::is_empty),
            command: run.command,
            seed: run.seed,
            seconds: run.seconds,
            clients: run.clients,
            faults,
            requests: records.requests,
            requests_per_second: records.requests as f64 / run.seconds,
            writes: WriteCounts {
                acknowledged: writes.acknowledged,
                refused: writes.refused,
                retried: writes.retried,
                unknown: writes.unknown,
                replayed: writes.replayed,
            },
            latency_ms: Percentiles::of(records.latencies.clone()),
            resolution_ms: Percentiles::of(records.resolution_times.clone()),
            seconds_to_converge,
            converge_within: run.converge_within,
            lost,
            duplicated,
            oversold,
            dead_letters,
            unresolved: records.unresolved.len(),
            wrong_responses: records.wrong_responses.len(),
            internal_errors: records.internal_errors.len(),
            verification: run.verification,
            unexpected_exits: run.unexpected_exits,
            problems,
            past_faults: run.faults,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<40} {value}");
        let faults = self.faults.iter().map(|(kind, count)| format!("{kind} {count}"));
        let faults = faults.collect::<Vec<_>>().join(", ");
        let count: usize = self.faults.values().sum();
        let milliseconds =
            |p: &Percentiles| format!("{:.0} / {:.0} / {:.0} ms", p.p50, p.p99, p.max);
        line("faults", format!("{count}: {faults}"))?;
        line("requests", self.requests.to_string())?;
        line("requests per second", format!("{:.0}", self.requests_per_second))?;
        line("latency, p50 / p99 / max", milliseconds(&self.latency_ms))?;
        line("writes until resolved, p50 / p99 / max", milliseconds(&self.resolution_ms))?;
        line("writes acknowledged", self.writes.acknowledged.to_string())?;
        line("writes refused", self.writes.refused.to_string())?;
        line("writes retried", self.writes.retried.to_string())?;
        line("writes replayed", self.writes.replayed.to_string())?;
        line("writes with unknown outcome, resolved", self.writes.unknown.to_string())?;
        line("unresolved", self.unresolved.to_string())?;
        line("lost", self.lost.to_string())?;
        line("duplicated", self.duplicated.to_string())?;
        line("oversold", self.oversold.to_string())?;
        line("dead letters", self.dead_letters.to_string())?;
        line("wrong responses", self.wrong_responses.to_string())?;
        line("responses with status 500", self.internal_errors.to_string())?;
        let converged = self.seconds_to_converge.map(|seconds| format!("{seconds:.1}"));
        line("seconds to converge", converged.unwrap_or_else(|| "more than 60".to_owned()))?;
        let verification = match &self.verification {
            Verification::Balanced => "balanced",
            Verification::Differs(_) => "differs",
        };
        line("shop verify", verification.to_owned())?;
        line("unexpected exits", self.unexpected_exits.len().to_string())?;
        for (what, problems) in self.problems.iter().filter(|(_, problems)| !problems.is_empty()) {
            writeln!(f, "\n{what}: {}", problems.len())?;
            for problem in problems.iter().take(MAX_SHOWN) {
                writeln!(f, "  {problem}")?;
            }
        }
        Ok(())
    }
}
