//! What a run came to: figures for people, the same as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::faults::{Kind, Past};
use crate::records::Records;
use crate::shop::Ledger;
use crate::verdict::Verdict;

/// So many of each kind of problem are printed; the JSON has all.
const SHOWN: usize = 10;

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub good: bool,
    /// Repeats the same schedule.
    pub command: String,
    pub seed: u64,
    pub seconds: f64,
    pub clients: u32,
    pub faults: BTreeMap<Kind, usize>,
    pub requests: u64,
    pub requests_per_second: f64,
    pub writes: WriteFigures,
    /// From a request to its answer, in milliseconds, where it had one.
    pub answer_ms: Percentiles,
    /// From a write's first try to its definite answer, in milliseconds.
    pub resolution_ms: Percentiles,
    /// From the end of the last fault until all copies were equal; nothing if that took more than 60 s.
    pub seconds_to_converge: Option<f64>,
    /// How long that may take.
    pub converge_within: f64,
    pub lost: usize,
    pub duplicated: usize,
    pub oversold: usize,
    pub dead_letters: usize,
    pub unresolved: usize,
    pub wrong: usize,
    pub bugs: usize,
    pub ledger: Ledger,
    /// Processes that ended unasked.
    pub ended_by_themselves: Vec<String>,
    pub problems: BTreeMap<&'static str, Vec<String>>,
    pub past_faults: Vec<Past>,
}

/// How the writes went.
#[derive(Debug, Serialize)]
pub struct WriteFigures {
    pub acknowledged: u64,
    pub refused: u64,
    pub retried: u64,
    pub unknown: u64,
    pub replayed: u64,
}

/// Of many durations, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub most: f64,
}

impl Percentiles {
    pub fn of(mut durations: Vec<Duration>) -> Percentiles {
        durations.sort_unstable();
        let at = |share: f64| {
            let place = (durations.len().saturating_sub(1) as f64 * share).round() as usize;
            durations.get(place).map_or(0.0, |found| found.as_secs_f64() * 1000.0)
        };
        Percentiles { p50: at(0.5), p99: at(0.99), most: at(1.0) }
    }
}

/// What a run was, and what it left behind.
pub struct Run<'r> {
    pub command: String,
    pub seed: u64,
    pub seconds: f64,
    pub clients: u32,
    pub converge_within: f64,
    pub records: &'r Records,
    pub faults: Vec<Past>,
    pub converged: Result<f64, String>,
    pub verdict: Verdict,
    pub ledger: Ledger,
    pub ended_by_themselves: Vec<String>,
    pub ended_badly: Vec<String>,
}

impl Report {
    pub fn of(run: Run) -> Report {
        let Run { records, verdict, .. } = run;
        let mut faults = BTreeMap::new();
        for fault in &run.faults {
            *faults.entry(fault.kind).or_default() += 1;
        }
        let seconds_to_converge = run.converged.as_ref().ok().copied();
        let (lost, duplicated) = (verdict.lost.len(), verdict.duplicated.len());
        let (oversold, dead_letters) = (verdict.oversold.len(), verdict.dead_letters.len());
        let differs = match &run.ledger {
            Ledger::Differs(words) => vec![words.clone()],
            Ledger::Agrees => vec![],
        };
        let late = match run.converged {
            Ok(seconds) if seconds > run.converge_within => vec![format!("after {seconds:.1} s")],
            Ok(_) => vec![],
            Err(difference) => vec![difference],
        };
        let problems = BTreeMap::from([
            ("lost", verdict.lost),
            ("duplicated", verdict.duplicated),
            ("oversold", verdict.oversold),
            ("dead letters", verdict.dead_letters),
            ("unresolved", records.unresolved.clone()),
            ("wrong answers", records.wrong.clone()),
            ("answers of 500", records.bugs.clone()),
            ("not converged", late),
            ("the ledger differs", differs),
            ("ended in bad order", run.ended_badly),
        ]);
        let writes = records.writes;
        Report {
            good: problems.values().all(Vec::is_empty),
            command: run.command,
            seed: run.seed,
            seconds: run.seconds,
            clients: run.clients,
            faults,
            requests: records.requests,
            requests_per_second: records.requests as f64 / run.seconds,
            writes: WriteFigures {
                acknowledged: writes.acknowledged,
                refused: writes.refused,
                retried: writes.retried,
                unknown: writes.unknown,
                replayed: writes.replayed,
            },
            answer_ms: Percentiles::of(records.answers.clone()),
            resolution_ms: Percentiles::of(records.resolutions.clone()),
            seconds_to_converge,
            converge_within: run.converge_within,
            lost,
            duplicated,
            oversold,
            dead_letters,
            unresolved: records.unresolved.len(),
            wrong: records.wrong.len(),
            bugs: records.bugs.len(),
            ledger: run.ledger,
            ended_by_themselves: run.ended_by_themselves,
            problems,
            past_faults: run.faults,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, figure: String| writeln!(f, "  {name:<40} {figure}");
        let faults = self.faults.iter().map(|(kind, count)| format!("{kind} {count}"));
        let faults = faults.collect::<Vec<_>>().join(", ");
        let count: usize = self.faults.values().sum();
        let milliseconds =
            |p: &Percentiles| format!("{:.0} / {:.0} / {:.0} ms", p.p50, p.p99, p.most);
        line("faults", format!("{count}: {faults}"))?;
        line("requests", self.requests.to_string())?;
        line("requests per second", format!("{:.0}", self.requests_per_second))?;
        line("answers, p50 / p99 / most", milliseconds(&self.answer_ms))?;
        line("writes until definite, p50 / p99 / most", milliseconds(&self.resolution_ms))?;
        line("writes acknowledged", self.writes.acknowledged.to_string())?;
        line("writes refused", self.writes.refused.to_string())?;
        line("writes tried again", self.writes.retried.to_string())?;
        line("writes answered by a replay", self.writes.replayed.to_string())?;
        line("unknown outcomes, all resolved", self.writes.unknown.to_string())?;
        line("unresolved", self.unresolved.to_string())?;
        line("lost", self.lost.to_string())?;
        line("duplicated", self.duplicated.to_string())?;
        line("oversold", self.oversold.to_string())?;
        line("dead letters", self.dead_letters.to_string())?;
        line("wrong answers", self.wrong.to_string())?;
        line("answers of 500", self.bugs.to_string())?;
        let converged = self.seconds_to_converge.map(|seconds| format!("{seconds:.1}"));
        line("seconds to converge", converged.unwrap_or_else(|| "more than 60".to_owned()))?;
        let ledger = match &self.ledger {
            Ledger::Agrees => "agrees",
            Ledger::Differs(_) => "differs",
        };
        line("shop verify", ledger.to_owned())?;
        line("processes ended by themselves", self.ended_by_themselves.len().to_string())?;
        for (what, problems) in self.problems.iter().filter(|(_, problems)| !problems.is_empty()) {
            writeln!(f, "\n{what}: {}", problems.len())?;
            for problem in problems.iter().take(SHOWN) {
                writeln!(f, "  {problem}")?;
            }
        }
        Ok(())
    }
}
