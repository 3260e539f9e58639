//! Measurements, their medians, and the comparison with a limit and a target.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::processes::Usage;
use crate::wrk::{Load, WrkReport};

/// A measurement with a larger share of errors does not count.
const MAX_ERROR_SHARE: f64 = 0.003;

/// What is measured: the shop or a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    Shop,
    Baseline,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Subject::Shop => "shop",
            Subject::Baseline => "baseline",
        })
    }
}

/// One measurement. Times are in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub subject: Subject,
    pub what: String,
    pub connections: u32,
    pub seconds: f64,
    pub requests: u64,
    pub per_second: f64,
    /// The share of errors is too large: the measurement does not count.
    pub failed: bool,
    pub errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// Time from the end of the load until its events were applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<f64>,
    /// By process tree.
    pub cpu_us_per_request: BTreeMap<String, f64>,
    /// After the measurement, by process tree.
    pub resident_mb: BTreeMap<String, f64>,
}

impl Run {
    /// A measurement of which only the rate is known.
    pub fn of_rate(subject: Subject, connections: u32, seconds: f64, requests: u64) -> Run {
        Run {
            subject,
            what: String::new(),
            connections,
            seconds,
            requests,
            per_second: requests as f64 / seconds,
            failed: false,
            errors: 0,
            p50_ms: None,
            p99_ms: None,
            p999_ms: None,
            max_ms: None,
            drain_seconds: None,
            cpu_us_per_request: BTreeMap::new(),
            resident_mb: BTreeMap::new(),
        }
    }

    /// A measurement by wrk. A failed request does not count as a request.
    pub fn of_wrk(subject: Subject, load: &Load, report: &WrkReport) -> Run {
        let ms = |micros: u64| Some(micros as f64 / 1000.0);
        let answered = report.requests.saturating_sub(report.failed);
        Run {
            failed: answered == 0
                || report.failed as f64 > MAX_ERROR_SHARE * report.requests as f64,
            errors: report.failed,
            p50_ms: ms(report.p50),
            p99_ms: ms(report.p99),
            p999_ms: ms(report.p999),
            max_ms: ms(report.max),
            ..Run::of_rate(subject, load.connections, report.micros as f64 / 1e6, answered)
        }
    }

    /// Sets the name of the measurement.
    pub fn named(self, what: impl Into<String>) -> Run {
        Run { what: what.into(), ..self }
    }

    /// Sets processor time and memory from the usage before and after the measurement.
    pub fn with_usage(
        mut self,
        requests: u64,
        before: &BTreeMap<String, Usage>,
        after: &BTreeMap<String, Usage>,
    ) -> Run {
        for (name, after) in after {
            let before = before.get(name).copied().unwrap_or_default();
            let micros = (after.cpu_seconds - before.cpu_seconds) * 1e6;
            let per_request = (micros / requests.max(1) as f64 * 10.0).round() / 10.0;
            self.cpu_us_per_request.insert(name.clone(), per_request);
            self.resident_mb.insert(name.clone(), megabytes(after.resident_bytes));
        }
        self
    }
}

/// Bytes in MB, rounded to one decimal.
pub fn megabytes(bytes: u64) -> f64 {
    (bytes as f64 / 1e5).round() / 10.0
}

/// The median and the range of one figure over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub rounds: Vec<f64>,
}

impl Figure {
    /// Computes the median and the range. Fails if `rounds` is empty.
    pub fn of(rounds: Vec<f64>) -> anyhow::Result<Figure> {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (sorted.first().copied(), sorted.last().copied());
        let (min, max) = min.zip(max).context("no round was measured")?;
        let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        Ok(Figure { median, min, max, rounds })
    }

    /// The same over the runs that did not fail.
    pub fn among<'r>(
        runs: impl IntoIterator<Item = &'r Run>,
        figure: impl Fn(&Run) -> Option<f64>,
    ) -> anyhow::Result<Figure> {
        let runs = runs.into_iter().collect::<Vec<_>>();
        let counted = runs.iter().filter(|run| !run.failed).filter_map(|run| figure(run));
        let counted = counted.collect::<Vec<_>>();
        let what = runs.first().map_or("a measurement", |run| run.what.as_str());
        ensure!(!counted.is_empty(), "{what}: too many errors in every round");
        Figure::of(counted)
    }
}

/// The target of a figure.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The ratio is at least this.
    RatioAtLeast(f64),
    /// The ratio is at most this.
    RatioAtMost(f64),
    /// The figure itself is at most this.
    AtMost(f64),
}

impl Target {
    fn is_met(self, median: f64, ratio: Option<f64>) -> bool {
        match self {
            Target::RatioAtLeast(min) => ratio.is_some_and(|ratio| ratio >= min),
            Target::RatioAtMost(max) => ratio.is_some_and(|ratio| ratio <= max),
            Target::AtMost(max) => median <= max,
        }
    }
}

/// A row of the report's table. `limit` is the figure of the baseline.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    pub shop: Option<Figure>,
    pub limit: Option<Figure>,
    pub ratio: Option<f64>,
    pub target: Option<Target>,
    pub met: Option<bool>,
}

impl Row {
    /// A figure of the shop, its limit, and a target.
    pub fn compared_with_target(
        what: impl Into<String>,
        unit: &'static str,
        shop: Figure,
        limit: Figure,
        target: Target,
    ) -> Row {
        let median = shop.median;
        let row = Row::compared(what, unit, shop, limit);
        let met = target.is_met(median, row.ratio);
        Row { target: Some(target), met: Some(met), ..row }
    }

    /// A figure of the shop and its limit, without a target.
    pub fn compared(
        what: impl Into<String>,
        unit: &'static str,
        shop: Figure,
        limit: Figure,
    ) -> Row {
        let ratio = Some(shop.median / limit.median);
        Row { limit: Some(limit), ratio, ..Row::shop(what, unit, shop) }
    }

    /// A figure of the shop and a target for it.
    pub fn shop_with_target(
        what: impl Into<String>,
        unit: &'static str,
        shop: Figure,
        target: Target,
    ) -> Row {
        let met = target.is_met(shop.median, None);
        Row { target: Some(target), met: Some(met), ..Row::shop(what, unit, shop) }
    }

    /// A figure of the shop, without a target.
    pub fn shop(what: impl Into<String>, unit: &'static str, shop: Figure) -> Row {
        Row { shop: Some(shop), ..Row::empty(what.into(), unit) }
    }

    /// A figure of a baseline.
    pub fn limit(what: impl Into<String>, unit: &'static str, limit: Figure) -> Row {
        Row { limit: Some(limit), ..Row::empty(what.into(), unit) }
    }

    fn empty(what: String, unit: &'static str) -> Row {
        Row { what, unit, shop: None, limit: None, ratio: None, target: None, met: None }
    }
}

/// A curve of a chart.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// The results of a section.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    pub rows: Vec<Row>,
    pub runs: Vec<Run>,
    pub curves: Vec<Curve>,
    /// Errors of measurements.
    pub failures: Vec<String>,
}

impl Outcome {
    /// Whether every measurement succeeded.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty() && !self.runs.iter().any(|run| run.failed)
    }

    /// The runs of a subject with this name.
    pub fn runs_of<'o>(&'o self, subject: Subject, what: &'o str) -> impl Iterator<Item = &'o Run> {
        self.runs.iter().filter(move |run| run.subject == subject && run.what == what)
    }

    /// The rate of a subject over the runs with this name.
    pub fn rate(&self, subject: Subject, what: &str) -> anyhow::Result<Figure> {
        Figure::among(self.runs_of(subject, what), |run| Some(run.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrk::Script;

    #[test]
    fn median_of_an_even_number_is_the_mean_of_the_middle_two() {
        for (rounds, median) in
            [(vec![3.0], 3.0), (vec![5.0, 1.0, 2.0], 2.0), (vec![1.0, 4.0], 2.5)]
        {
            assert_eq!(Figure::of(rounds).unwrap().median, median);
        }
        assert!(Figure::of(vec![]).is_err());
    }

    #[test]
    fn run_fails_above_the_maximum_share_of_errors() {
        let script = Script::Get { token: String::new() };
        let load =
            Load { url: String::new(), script, threads: 1, connections: 8, seconds: 1, rate: None };
        for (failed, is_failure) in [(0, false), (3, false), (4, true), (1000, true)] {
            let (requests, micros) = (1000, 500_000);
            let report = WrkReport { requests, micros, failed, p50: 1, p99: 2, p999: 3, max: 4 };
            let run = Run::of_wrk(Subject::Shop, &load, &report);
            assert_eq!(run.failed, is_failure, "{failed} errors");
            assert_eq!(run.per_second, (1000 - failed) as f64 * 2.0);
        }
    }

    #[test]
    fn failed_run_does_not_count() {
        let good = Run::of_rate(Subject::Shop, 1, 1.0, 100);
        let bad = Run { failed: true, ..Run::of_rate(Subject::Shop, 1, 1.0, 900) };
        let rate = |run: &Run| Some(run.per_second);
        assert_eq!(Figure::among([&good, &bad], rate).unwrap().median, 100.0);
        assert!(Figure::among([&bad], rate).is_err());
    }

    #[test]
    fn target_applies_to_the_ratio_or_the_figure() {
        let figure = |value| Figure::of(vec![value]).unwrap();
        let compared =
            |target| Row::compared_with_target("", "", figure(8.0), figure(10.0), target).met;
        assert_eq!(compared(Target::RatioAtLeast(0.8)), Some(true));
        assert_eq!(compared(Target::RatioAtLeast(0.9)), Some(false));
        assert_eq!(compared(Target::RatioAtMost(0.7)), Some(false));
        assert_eq!(
            Row::shop_with_target("", "", figure(50.0), Target::AtMost(50.0)).met,
            Some(true)
        );
    }
}
