//! Figures: what each measurement said, their medians, and how they compare with a limit and a target.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::processes::Usage;
use crate::wrk::{Load, Said};

/// More errors than this share make a measurement worthless.
const MOST_ERRORS: f64 = 0.003;

/// Who was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    Shop,
    Limit,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Who::Shop => "shop",
            Who::Limit => "limit",
        })
    }
}

/// One measurement. Times are in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub who: Who,
    pub what: String,
    pub connections: u32,
    pub seconds: f64,
    pub requests: u64,
    pub per_second: f64,
    /// Whether there were too many errors for it to count.
    pub failed: bool,
    pub errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_ms: Option<f64>,
    /// How long it took afterwards until the events of it were applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<f64>,
    /// Of each process, with its children.
    pub cpu_us_per_request: BTreeMap<String, f64>,
    /// After the measurement.
    pub resident_mb: BTreeMap<String, f64>,
}

impl Run {
    /// What a program that says no more than its rate came to.
    pub fn of_rate(who: Who, connections: u32, seconds: f64, requests: u64) -> Run {
        Run {
            who,
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
            most_ms: None,
            drain_seconds: None,
            cpu_us_per_request: BTreeMap::new(),
            resident_mb: BTreeMap::new(),
        }
    }

    /// What wrk said. An error is no request that was answered.
    pub fn of_wrk(who: Who, load: &Load, said: &Said) -> Run {
        let ms = |micros: u64| Some(micros as f64 / 1000.0);
        let answered = said.requests.saturating_sub(said.failed);
        Run {
            failed: answered == 0 || said.failed as f64 > MOST_ERRORS * said.requests as f64,
            errors: said.failed,
            p50_ms: ms(said.p50),
            p99_ms: ms(said.p99),
            p999_ms: ms(said.p999),
            most_ms: ms(said.most),
            ..Run::of_rate(who, load.connections, said.micros as f64 / 1e6, answered)
        }
    }

    /// What it was.
    pub fn named(self, what: impl Into<String>) -> Run {
        Run { what: what.into(), ..self }
    }

    /// What it cost.
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

/// To a tenth.
pub fn megabytes(bytes: u64) -> f64 {
    (bytes as f64 / 1e5).round() / 10.0
}

/// A figure over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub median: f64,
    pub least: f64,
    pub most: f64,
    pub rounds: Vec<f64>,
}

impl Figure {
    /// Of what was measured, round by round.
    pub fn of(rounds: Vec<f64>) -> anyhow::Result<Figure> {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (sorted.first().copied(), sorted.last().copied());
        let (least, most) = least.zip(most).context("no round could be measured")?;
        let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        Ok(Figure { median, least, most, rounds })
    }

    /// Of those measurements that count.
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

/// What is demanded.
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
            Target::RatioAtLeast(least) => ratio.is_some_and(|ratio| ratio >= least),
            Target::RatioAtMost(most) => ratio.is_some_and(|ratio| ratio <= most),
            Target::AtMost(most) => median <= most,
        }
    }
}

/// A line of the report's table.
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
    /// A figure of the shop beside the same of its limit.
    pub fn compared(
        what: impl Into<String>,
        unit: &'static str,
        shop: Figure,
        limit: Figure,
        target: Target,
    ) -> Row {
        let median = shop.median;
        let row = Row::beside(what, unit, shop, limit);
        let met = target.is_met(median, row.ratio);
        Row { target: Some(target), met: Some(met), ..row }
    }

    /// The same, to know.
    pub fn beside(what: impl Into<String>, unit: &'static str, shop: Figure, limit: Figure) -> Row {
        let ratio = Some(shop.median / limit.median);
        Row { limit: Some(limit), ratio, ..Row::shown(what, unit, shop) }
    }

    /// A figure that has a target of its own.
    pub fn alone(what: impl Into<String>, unit: &'static str, shop: Figure, target: Target) -> Row {
        let met = target.is_met(shop.median, None);
        Row { target: Some(target), met: Some(met), ..Row::shown(what, unit, shop) }
    }

    /// A figure to know.
    pub fn shown(what: impl Into<String>, unit: &'static str, shop: Figure) -> Row {
        Row { shop: Some(shop), ..Row::empty(what.into(), unit) }
    }

    /// A figure of a limit, to know.
    pub fn of_limit(what: impl Into<String>, unit: &'static str, limit: Figure) -> Row {
        Row { limit: Some(limit), ..Row::empty(what.into(), unit) }
    }

    fn empty(what: String, unit: &'static str) -> Row {
        Row { what, unit, shop: None, limit: None, ratio: None, target: None, met: None }
    }
}

/// Points of a picture that belong together.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// What a section came to.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    pub rows: Vec<Row>,
    pub runs: Vec<Run>,
    pub curves: Vec<Curve>,
    /// What could not be measured, and why.
    pub trouble: Vec<String>,
}

impl Outcome {
    /// Whether everything could be measured.
    pub fn is_complete(&self) -> bool {
        self.trouble.is_empty() && !self.runs.iter().any(|run| run.failed)
    }

    /// The measurements of one thing.
    pub fn runs_of<'o>(&'o self, who: Who, what: &'o str) -> impl Iterator<Item = &'o Run> {
        self.runs.iter().filter(move |run| run.who == who && run.what == what)
    }

    /// The median rate of one thing.
    pub fn rate(&self, who: Who, what: &str) -> anyhow::Result<Figure> {
        Figure::among(self.runs_of(who, what), |run| Some(run.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrk::Script;

    #[test]
    fn a_median_lies_in_the_middle() {
        for (rounds, median) in
            [(vec![3.0], 3.0), (vec![5.0, 1.0, 2.0], 2.0), (vec![1.0, 4.0], 2.5)]
        {
            assert_eq!(Figure::of(rounds).unwrap().median, median);
        }
        assert!(Figure::of(vec![]).is_err());
    }

    #[test]
    fn more_than_a_few_errors_in_a_thousand_are_a_failure() {
        let script = Script::Get { token: String::new() };
        let load =
            Load { url: String::new(), script, threads: 1, connections: 8, seconds: 1, rate: None };
        for (failed, is_failure) in [(0, false), (3, false), (4, true), (1000, true)] {
            let (requests, micros) = (1000, 500_000);
            let said = Said { requests, micros, failed, p50: 1, p99: 2, p999: 3, most: 4 };
            let run = Run::of_wrk(Who::Shop, &load, &said);
            assert_eq!(run.failed, is_failure, "{failed} errors");
            assert_eq!(run.per_second, (1000 - failed) as f64 * 2.0);
        }
    }

    #[test]
    fn a_measurement_with_errors_does_not_count() {
        let good = Run::of_rate(Who::Shop, 1, 1.0, 100);
        let bad = Run { failed: true, ..Run::of_rate(Who::Shop, 1, 1.0, 900) };
        let rate = |run: &Run| Some(run.per_second);
        assert_eq!(Figure::among([&good, &bad], rate).unwrap().median, 100.0);
        assert!(Figure::among([&bad], rate).is_err());
    }

    #[test]
    fn a_target_says_what_it_is_about() {
        let figure = |value| Figure::of(vec![value]).unwrap();
        let compared = |target| Row::compared("", "", figure(8.0), figure(10.0), target).met;
        assert_eq!(compared(Target::RatioAtLeast(0.8)), Some(true));
        assert_eq!(compared(Target::RatioAtLeast(0.9)), Some(false));
        assert_eq!(compared(Target::RatioAtMost(0.7)), Some(false));
        assert_eq!(Row::alone("", "", figure(50.0), Target::AtMost(50.0)).met, Some(true));
    }
}
