//! The report: a table for people, everything as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::figures::{Curve, Figure, Outcome, Row, Run, Target};
use crate::machine::Machine;
use crate::sections::Section;

/// All of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether everything could be measured.
    pub complete: bool,
    pub command: String,
    pub machine: Machine,
    pub rounds: u32,
    pub seconds: u64,
    pub sections: BTreeMap<Section, Outcome>,
}

impl Report {
    /// The points of a curve, if its section was measured.
    pub fn curve(&self, name: &str) -> Option<&Curve> {
        let mut curves = self.sections.values().flat_map(|outcome| &outcome.curves);
        curves.find(|curve| curve.name == name)
    }

    /// Where it was measured, and with what.
    pub fn place(&self) -> String {
        let Machine { cores, processor, versions, commit, date, .. } = &self.machine;
        let versions = versions.iter().map(|(name, version)| format!("{name} {version}"));
        let versions = versions.collect::<Vec<_>>().join(", ");
        format!("{cores} cores of {processor}, {versions}; commit {commit}, {date}")
    }

    fn troubles(&self) -> impl Iterator<Item = String> {
        let troubles = |(section, outcome): (&Section, &Outcome)| {
            let failed = outcome.runs.iter().filter(|run| run.failed).map(|run| {
                let Run { what, errors, requests, .. } = run;
                format!("{what}: {errors} errors beside {requests} answers, not counted")
            });
            let said = failed.chain(outcome.trouble.iter().cloned());
            said.map(|trouble| format!("{section}: {trouble}")).collect::<Vec<_>>()
        };
        self.sections.iter().flat_map(troubles)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "`{}`\n\n{}.", self.command, self.place())?;
        let Report { rounds, seconds, .. } = self;
        writeln!(f, "Medians of {rounds} rounds of {seconds} s (least–most).\n")?;
        writeln!(f, "| what | shop | limit | ratio | target | met? |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in self.sections.values().flat_map(|outcome| &outcome.rows) {
            let Row { what, unit, shop, limit, ratio, target, met } = row;
            let [shop, limit] = [shop, limit].map(|figure| {
                figure.as_ref().map(|figure| shown(figure, unit)).unwrap_or_default()
            });
            let ratio = ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default();
            let target = target.map(|target| wanted(target, unit)).unwrap_or_default();
            let met = met.map_or("", |met| if met { "yes" } else { "**no**" });
            writeln!(f, "| {what} | {shop} | {limit} | {ratio} | {target} | {met} |")?;
        }
        self.costs(f)?;
        if self.troubles().next().is_some() {
            writeln!(f, "\nNot measured, or not counted:\n")?;
        }
        for trouble in self.troubles() {
            writeln!(f, "- {}", trouble.replace('\n', " "))?;
        }
        Ok(())
    }
}

impl Report {
    /// What a request costs each process, in the middle of all measurements of its kind.
    fn costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<(&str, &Run, Vec<&Run>)> = vec![];
        for run in self.sections.values().flat_map(|outcome| &outcome.runs) {
            match kinds.iter_mut().find(|(what, of, _)| *what == run.what && of.who == run.who) {
                Some((.., runs)) => runs.push(run),
                None => kinds.push((&run.what, run, vec![run])),
            }
        }
        kinds.retain(|(_, first, _)| !first.cpu_us_per_request.is_empty());
        if kinds.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n| what | who | CPU a request, µs | memory after, MB |\n|---|---|---|---|")?;
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
            writeln!(f, "| {what} | {} | {cpu} | {memory} |", first.who)?;
        }
        Ok(())
    }
}

fn shown(figure: &Figure, unit: &str) -> String {
    let Figure { median, least, most, rounds } = figure;
    if rounds.len() < 2 {
        return format!("{} {unit}", rounded(*median));
    }
    format!("{} {unit} ({}–{})", rounded(*median), rounded(*least), rounded(*most))
}

fn wanted(target: Target, unit: &str) -> String {
    match target {
        Target::RatioAtLeast(least) => format!("≥ {least:.2}"),
        Target::RatioAtMost(most) => format!("≤ {most:.2}"),
        Target::AtMost(most) => format!("≤ {} {unit}", rounded(most)),
    }
}

/// With as many digits as mean something.
fn rounded(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => thousands(value.round()),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// 12345 is 12,345.
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
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
    fn figures_are_short() {
        for (value, text) in
            [(0.1234, "0.12"), (12.34, "12.3"), (123.4, "123"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(rounded(value), text);
        }
    }
}
