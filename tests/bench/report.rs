//! The report: Markdown tables, and all measurements as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::figures::{Curve, Figure, Outcome, Row, Run, Target};
use crate::machine::Machine;
use crate::sections::Section;

/// The results of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every measurement succeeded.
    pub complete: bool,
    pub command: String,
    pub machine: Machine,
    pub rounds: u32,
    pub seconds: u64,
    pub sections: BTreeMap<Section, Outcome>,
}

impl Report {
    /// A curve, or `None` if its section was not measured.
    pub fn curve(&self, name: &str) -> Option<&Curve> {
        let mut curves = self.sections.values().flat_map(|outcome| &outcome.curves);
        curves.find(|curve| curve.name == name)
    }

    /// The machine, the versions, the commit and the date.
    pub fn environment(&self) -> String {
        let Machine { cores, processor, versions, commit, date, .. } = &self.machine;
        let versions = versions.iter().map(|(name, version)| format!("{name} {version}"));
        let versions = versions.collect::<Vec<_>>().join(", ");
        format!("{cores} cores of {processor}, {versions}; commit {commit}, {date}")
    }

    fn failures(&self) -> impl Iterator<Item = String> {
        let failures = |(section, outcome): (&Section, &Outcome)| {
            let failed = outcome.runs.iter().filter(|run| run.failed).map(|run| {
                let Run { what, errors, requests, .. } = run;
                format!("{what}: {errors} errors, {requests} responses; not counted")
            });
            let all = failed.chain(outcome.failures.iter().cloned());
            all.map(|failure| format!("{section}: {failure}")).collect::<Vec<_>>()
        };
        self.sections.iter().flat_map(failures)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "`{}`\n\n{}.", self.command, self.environment())?;
        let Report { rounds, seconds, .. } = self;
        writeln!(f, "Medians of {rounds} rounds of {seconds} s (min–max).\n")?;
        writeln!(f, "| what | shop | limit | ratio | target | met? |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in self.sections.values().flat_map(|outcome| &outcome.rows) {
            let Row { what, unit, shop, limit, ratio, target, met } = row;
            let [shop, limit] = [shop, limit].map(|figure| {
                figure.as_ref().map(|figure| format_figure(figure, unit)).unwrap_or_default()
            });
            let ratio = ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default();
            let target = target.map(|target| format_target(target, unit)).unwrap_or_default();
            let met = met.map_or("", |met| if met { "yes" } else { "**no**" });
            writeln!(f, "| {what} | {shop} | {limit} | {ratio} | {target} | {met} |")?;
        }
        self.write_usage(f)?;
        if self.failures().next().is_some() {
            writeln!(f, "\nFailed or not counted:\n")?;
        }
        for failure in self.failures() {
            writeln!(f, "- {}", failure.replace('\n', " "))?;
        }
        Ok(())
    }
}

impl Report {
    /// Writes the median processor time and memory of each process, by measurement and subject.
    fn write_usage(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<(&str, &Run, Vec<&Run>)> = vec![];
        for run in self.sections.values().flat_map(|outcome| &outcome.runs) {
            match kinds
                .iter_mut()
                .find(|(what, of, _)| *what == run.what && of.subject == run.subject)
            {
                Some((.., runs)) => runs.push(run),
                None => kinds.push((&run.what, run, vec![run])),
            }
        }
        kinds.retain(|(_, first, _)| !first.cpu_us_per_request.is_empty());
        if kinds.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n| what | subject | CPU per request, µs | memory after, MB |\n|---|---|---|---|"
        )?;
        for (what, first, runs) in kinds {
            let names = || first.cpu_us_per_request.keys();
            let medians = |of: fn(&Run) -> &BTreeMap<String, f64>| {
                let figure = |name: &String| {
                    let rounds = runs.iter().filter_map(|run| of(run).get(name).copied());
                    Some(format!("{name} {:.0}", Figure::of(rounds.collect()).ok()?.median))
                };
                names().filter_map(figure).collect::<Vec<_>>().join(", ")
            };
            let (cpu, memory) =
                (medians(|run| &run.cpu_us_per_request), medians(|run| &run.resident_mb));
            writeln!(f, "| {what} | {} | {cpu} | {memory} |", first.subject)?;
        }
        Ok(())
    }
}

fn format_figure(figure: &Figure, unit: &str) -> String {
    let Figure { median, min, max, rounds } = figure;
    if rounds.len() < 2 {
        return format!("{} {unit}", rounded(*median));
    }
    format!("{} {unit} ({}–{})", rounded(*median), rounded(*min), rounded(*max))
}

fn format_target(target: Target, unit: &str) -> String {
    match target {
        Target::RatioAtLeast(min) => format!("≥ {min:.2}"),
        Target::RatioAtMost(max) => format!("≤ {max:.2}"),
        Target::AtMost(max) => format!("≤ {} {unit}", rounded(max)),
    }
}

/// Rounded to about three significant digits.
fn rounded(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => thousands(value.round()),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Formats with thousands separators: 12345 is "12,345".
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_to_three_digits() {
        for (value, text) in
            [(0.1234, "0.12"), (12.34, "12.3"), (123.4, "123"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(rounded(value), text);
        }
    }
}
