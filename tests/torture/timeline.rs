//! The timeline: an SVG of responses and errors per second with the faults below.

use crate::faults::{FaultKind, FaultRecord};
use crate::records::Second;

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const PLOT: f64 = 280.0;
const LANE: f64 = 22.0;
const BOTTOM: f64 = TOP + PLOT;
const LANES: f64 = BOTTOM + 44.0;

const ANSWERED: &str = "#2f7d4f";
const FAILED: &str = "#c8102e";

fn colour(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Node => "#d1495b",
        FaultKind::Broker => "#edae49",
        FaultKind::Backend => "#00798c",
        FaultKind::Postmaster => "#30638e",
        FaultKind::Suspend => "#7b4ab5",
        FaultKind::Cut => "#4a4a4a",
        FaultKind::Stall => "#9c6644",
        FaultKind::Delay => "#8aa29e",
    }
}

/// The data of the timeline.
pub struct Timeline<'r> {
    pub title: String,
    pub seconds: &'r [Second],
    pub faults: &'r [FaultRecord],
    /// When the load ended.
    pub load_ended: f64,
    /// When the replicated tables equalled their sources.
    pub converged: Option<f64>,
}

impl Timeline<'_> {
    /// As SVG.
    pub fn draw(&self) -> String {
        let ends = self.faults.iter().map(|fault| fault.to).chain(self.converged);
        let length = ends.fold(self.seconds.len() as f64, f64::max).max(self.load_ended);
        let max = self.seconds.iter().map(|second| second.answered.max(second.failed)).max();
        let kinds = FaultKind::ALL.into_iter().filter(|kind| self.of(*kind).next().is_some());
        let mut sheet = Sheet::new(length, max.unwrap_or(0), kinds.clone().count());
        self.heading(&mut sheet);
        sheet.axes();
        for (lane, kind) in kinds.enumerate() {
            sheet.lane(lane, kind, self.of(kind));
        }
        sheet.line(ANSWERED, self.seconds.iter().map(|second| second.answered));
        sheet.line(FAILED, self.seconds.iter().map(|second| second.failed));
        for at in [Some(self.load_ended), self.converged].into_iter().flatten() {
            sheet.mark(at);
        }
        sheet.finish()
    }

    fn heading(&self, sheet: &mut Sheet) {
        let title = format!(r#"<tspan font-size="16" font-weight="600">{}</tspan>"#, self.title);
        sheet.text(LEFT, 24.0, "start", &title);
        sheet.rule([LEFT, 44.0, LEFT + 20.0, 44.0], ANSWERED, 3);
        sheet.text(LEFT + 26.0, 48.0, "start", "responses per second");
        sheet.rule([LEFT + 170.0, 44.0, LEFT + 190.0, 44.0], FAILED, 3);
        sheet.text(LEFT + 196.0, 48.0, "start", "errors per second");
        let equal = self.converged.map_or("never".to_owned(), |at| format!("after {at:.1} s"));
        let ended = self.load_ended;
        let dashed = format!("dashed: load ended after {ended:.1} s, converged {equal}");
        sheet.text(WIDTH - RIGHT, 48.0, "end", &dashed);
    }

    fn of(&self, kind: FaultKind) -> impl Iterator<Item = &FaultRecord> {
        self.faults.iter().filter(move |fault| fault.kind == kind)
    }
}

/// The SVG under construction: a plot over time, and lanes below it.
struct Sheet {
    svg: String,
    /// The seconds that the width of the plot spans.
    length: f64,
    /// The count that a quarter of its height spans.
    step: f64,
}

impl Sheet {
    fn new(length: f64, max: u32, lanes: usize) -> Sheet {
        let (length, step) = (length.max(1.0), round_step(f64::from(max) / 4.0));
        let mut sheet = Sheet { svg: String::new(), length, step };
        let height = LANES + lanes as f64 * LANE + 24.0;
        sheet.add(&format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}""#
        ));
        sheet.add(r##"font-family="system-ui, sans-serif" font-size="12" fill="#333">"##);
        sheet.block([0.0, 0.0, WIDTH, height], "#fff", "");
        sheet
    }

    fn finish(mut self) -> String {
        self.add("</svg>");
        self.svg
    }

    fn x(&self, second: f64) -> f64 {
        LEFT + second / self.length * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, count: f64) -> f64 {
        BOTTOM - count / (4.0 * self.step) * PLOT
    }

    fn axes(&mut self) {
        for count in [0.0, 1.0, 2.0, 3.0, 4.0].map(|tick| tick * self.step) {
            let y = self.y(count);
            self.rule([LEFT, y, WIDTH - RIGHT, y], "#e5e5e5", 1);
            self.text(LEFT - 8.0, y + 4.0, "end", &count.to_string());
        }
        let every = round_step(self.length / 12.0);
        let mut second = 0.0;
        while second <= self.length {
            let x = self.x(second);
            self.rule([x, BOTTOM, x, BOTTOM + 5.0], "#999", 1);
            self.text(x, BOTTOM + 18.0, "middle", &format!("{second} s"));
            second += every;
        }
    }

    /// Draws the faults of a kind: bars in a lane, and shades behind the plot.
    fn lane<'p>(
        &mut self,
        lane: usize,
        kind: FaultKind,
        faults: impl Iterator<Item = &'p FaultRecord>,
    ) {
        let middle = LANES + (lane as f64 + 0.5) * LANE;
        self.rule([LEFT, middle, WIDTH - RIGHT, middle], "#eee", 1);
        self.text(LEFT - 8.0, middle + 4.0, "end", &kind.to_string());
        for FaultRecord { target, from, to, .. } in faults {
            let (x, width) = (self.x(*from), (self.x(*to) - self.x(*from)).max(3.0));
            self.block([x, TOP, width, PLOT], colour(kind), r#" opacity="0.10""#);
            self.block([x, middle - 7.0, width, 14.0], colour(kind), r#" rx="2""#);
            self.add(&format!("<!-- {kind} of {target}, {from:.1} to {to:.1} s -->"));
        }
    }

    fn line(&mut self, colour: &str, counts: impl Iterator<Item = u32>) {
        let point = |(second, count)| format!("{:.1},{:.1}", self.x(second), self.y(count));
        let middles = (0..).map(|second| f64::from(second) + 0.5);
        let points = middles.zip(counts.map(f64::from)).map(point).collect::<Vec<_>>().join(" ");
        self.add(&format!(
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#
        ));
    }

    fn mark(&mut self, second: f64) {
        let x = self.x(second);
        self.add(r#"<g stroke-dasharray="4 3">"#);
        self.rule([x, TOP, x, BOTTOM], "#333", 1);
        self.add("</g>");
    }

    fn block(&mut self, [x, y, width, height]: [f64; 4], colour: &str, more: &str) {
        self.add(&format!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"{more}/>"#
        ));
    }

    fn rule(&mut self, [x1, y1, x2, y2]: [f64; 4], colour: &str, width: u32) {
        self.add(&format!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="{width}"/>"#
        ));
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, words: &str) {
        self.add(&format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#));
    }

    fn add(&mut self, element: &str) {
        self.svg.push_str(element);
        self.svg.push('\n');
    }
}

/// The next of 1, 2, 5, 10, 20, 50, …
fn round_step(least: f64) -> f64 {
    let ten = 10_f64.powf(least.max(1.0).log10().floor());
    [1.0, 2.0, 5.0]
        .map(|digit| digit * ten)
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(10.0 * ten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (least, step) in [(0.3, 1.0), (1.0, 1.0), (1.5, 2.0), (30.0, 50.0), (51.0, 100.0)] {
            assert_eq!(round_step(least), step);
        }
    }
}
