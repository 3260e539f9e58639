//! Renders panels, axes and lines as SVG.

use crate::report::thousands;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 104.0;
const RIGHT: f64 = 32.0;
const HEAD: f64 = 70.0;
/// Heights of the parts of a panel: title and legend, plot, axis labels.
const PANEL_HEAD: f64 = 50.0;
const PLOT: f64 = 220.0;
const PANEL_FOOT: f64 = 58.0;
const PANEL: f64 = PANEL_HEAD + PLOT + PANEL_FOOT;

/// How the values of an axis environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// A tick at each measured value.
    Measured,
    /// Ticks at powers of ten, and at round values between them if there is room.
    Powers,
}

/// An axis.
#[derive(Debug)]
pub struct Axis {
    label: &'static str,
    scale: Scale,
}

impl Axis {
    pub fn new(label: &'static str, scale: Scale) -> Axis {
        Axis { label, scale }
    }
}

/// A curve with its style.
#[derive(Debug)]
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    pub colour: &'static str,
    pub dashed: bool,
}

/// A plot with its own axes.
#[derive(Debug)]
pub struct Panel {
    pub title: &'static str,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

/// Renders the panels that have lines, one below the other. `None` if there are none.
pub fn render(
    title: &str,
    subtitle: &str,
    panels: impl IntoIterator<Item = Panel>,
) -> Option<String> {
    let panels = panels.into_iter().filter(|panel| !panel.lines.is_empty()).collect::<Vec<_>>();
    if panels.is_empty() {
        return None;
    }
    let height = HEAD + PANEL * panels.len() as f64;
    let mut sheet = Sheet { svg: String::new() };
    sheet.add(&format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}""#
    ));
    sheet.add(r##"font-family="system-ui, sans-serif" font-size="13" fill="#333">"##);
    sheet.add(&format!(r##"<rect width="{WIDTH}" height="{height}" fill="#fff"/>"##));
    sheet.text(24.0, 30.0, "start", r#" font-size="18" font-weight="600""#, title);
    sheet.text(24.0, 50.0, "start", r##" font-size="11" fill="#777""##, subtitle);
    for (number, panel) in panels.iter().enumerate() {
        sheet.panel(HEAD + PANEL * number as f64, panel);
    }
    sheet.add("</svg>");
    Some(sheet.svg)
}

/// The visible part of an axis: the logarithms of its ends, and the ticks.
#[derive(Clone, Debug)]
struct Range {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Range {
    fn of(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Range {
        let values = values.filter(|value| *value > 0.0);
        let min = values.clone().fold(f64::INFINITY, f64::min);
        let max = values.clone().fold(0.0, f64::max);
        if !min.is_finite() {
            return Range { from: 0.0, to: 1.0, ticks: vec![1.0, 10.0] };
        }
        match scale {
            Scale::Measured => {
                let mut ticks = values.collect::<Vec<_>>();
                ticks.sort_by(f64::total_cmp);
                ticks.dedup();
                let margin = ((max / min).log10() / 20.0).max(0.05);
                Range { from: min.log10() - margin, to: max.log10() + margin, ticks }
            }
            Scale::Powers => {
                let (first, last) = (min.log10().floor() as i32, max.log10().ceil() as i32);
                let round = |digits: &'static [f64]| {
                    (first..=last).flat_map(move |power| {
                        digits.iter().map(move |digit| digit * 10_f64.powi(power))
                    })
                };
                let ticks = round(match (max / min).log10() {
                    decades if decades > 1.8 => &[1.0],
                    decades if decades > 0.5 => &[1.0, 2.0, 5.0],
                    _ => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
                });
                let ticks = ticks.collect::<Vec<_>>();
                let below = ticks.iter().copied().filter(|tick| *tick <= min).fold(min, |_, t| t);
                let above = ticks.iter().copied().find(|tick| *tick >= max).unwrap_or(max);
                let visible = |tick: &f64| (below..=above).contains(tick);
                let (from, to) = (below.log10(), above.log10());
                let to = if to - from < 0.1 { from + 0.3 } else { to };
                Range { from, to, ticks: ticks.into_iter().filter(visible).collect() }
            }
        }
    }

    /// The position of a value: from 0 at the start to 1 at the end.
    fn position(&self, value: f64) -> f64 {
        (value.log10() - self.from) / (self.to - self.from)
    }
}

/// The SVG text, as far as it is rendered.
struct Sheet {
    svg: String,
}

impl Sheet {
    fn panel(&mut self, top: f64, panel: &Panel) {
        let (ceiling, floor) = (top + PANEL_HEAD, top + PANEL_HEAD + PLOT);
        let points = || panel.lines.iter().flat_map(|line| line.points.iter());
        let across = Range::of(panel.x.scale, points().map(|point| point.0));
        let up = Range::of(panel.y.scale, points().map(|point| point.1));
        let x = |value: f64| LEFT + across.position(value) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| floor - up.position(value) * PLOT;

        self.text(LEFT, top + 16.0, "start", r#" font-size="15" font-weight="600""#, panel.title);
        for tick in &up.ticks {
            self.rule([LEFT, y(*tick), WIDTH - RIGHT, y(*tick)], "#e4e4e4", 1.0, false);
            self.text(LEFT - 8.0, y(*tick) + 4.0, "end", "", &label(*tick));
        }
        for tick in &across.ticks {
            self.rule([x(*tick), ceiling, x(*tick), floor], "#f0f0f0", 1.0, false);
            self.rule([x(*tick), floor, x(*tick), floor + 5.0], "#999", 1.0, false);
            self.text(x(*tick), floor + 20.0, "middle", "", &label(*tick));
        }
        self.rule([LEFT, floor, WIDTH - RIGHT, floor], "#999", 1.0, false);
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        self.text(middle, floor + 40.0, "middle", r##" fill="#555""##, panel.x.label);
        let (down, turned) = (ceiling + PLOT / 2.0, 30.0);
        let turn = format!(r##" fill="#555" transform="rotate(-90 {turned} {down})""##);
        self.text(turned, down, "middle", &turn, panel.y.label);
        self.legend(top + 36.0, &panel.lines);
        for line in &panel.lines {
            self.line(line, &x, &y);
        }
    }

    fn legend(&mut self, y: f64, lines: &[Line]) {
        let mut x = LEFT;
        for line in lines {
            self.rule([x, y - 4.0, x + 26.0, y - 4.0], line.colour, 2.5, line.dashed);
            self.text(x + 32.0, y, "start", "", &line.name);
            x += 32.0 + 7.2 * line.name.chars().count() as f64 + 22.0;
        }
    }

    fn line(&mut self, line: &Line, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) {
        let Line { points, colour, dashed, .. } = line;
        let positions =
            points.iter().filter(|(_, up)| *up > 0.0).map(|(across, up)| (x(*across), y(*up)));
        let positions = positions.collect::<Vec<_>>();
        let text =
            positions.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ");
        let dashes = dash(*dashed);
        self.add(&format!(
            r#"<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="2.5"{dashes}/>"#
        ));
        for ((x, y), (across, up)) in positions.iter().zip(points) {
            self.add(&format!(
                r##"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="#fff" stroke="{colour}" stroke-width="2"><title>{}: {}</title></circle>"##,
                label(*across),
                label(*up)
            ));
        }
    }

    fn rule(&mut self, [x1, y1, x2, y2]: [f64; 4], colour: &str, width: f64, dashed: bool) {
        let dashes = dash(dashed);
        self.add(&format!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="{width}"{dashes}/>"#
        ));
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, attributes: &str, text: &str) {
        self.add(&format!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}"{attributes}>{text}</text>"#
        ));
    }

    fn add(&mut self, element: &str) {
        self.svg.push_str(element);
        self.svg.push('\n');
    }
}

fn dash(dashed: bool) -> &'static str {
    if dashed { r#" stroke-dasharray="6 4""# } else { "" }
}

/// The label of a value.
fn label(value: f64) -> String {
    match value {
        small if small < 1.0 => format!("{value}"),
        small if small < 10.0 => format!("{}", (value * 100.0).round() / 100.0),
        large if large >= 1e6 => format!("{} million", (value / 1e4).round() / 100.0),
        _ => thousands(value.round()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_starts_and_ends_at_round_values() {
        let range = Range::of(Scale::Powers, [3.0, 40.0].into_iter());
        assert_eq!(range.ticks, [2.0, 5.0, 10.0, 20.0, 50.0]);
        assert!(range.position(2.0).abs() < 1e-9 && (range.position(50.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn chart_without_lines_is_none() {
        assert!(render("", "", []).is_none());
    }
}
