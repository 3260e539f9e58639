//! The pictures: plots one below the other, over one axis each, as SVG.

mod sheet;

use sheet::{Axis, Line, Panel, Scale, picture};

use crate::report::Report;

pub const LIST_RATE: &str = "GET products";
pub const LIST_P50: &str = "GET products, p50";
pub const LIST_P99: &str = "GET products, p99";
pub const ORDER_RATE: &str = "POST order";
pub const ORDER_P50: &str = "POST order, p50";
pub const ORDER_P99: &str = "POST order, p99";
pub const LIMIT_RATE: &str = "pgbench at its best";
pub const PAGE_RATE: &str = "in pages of 50 by cursor, 8 connections";
pub const PAGE_P50: &str = "page of 50, p50";
pub const PAGE_P99: &str = "page of 50, p99";
pub const WHOLE_RATE: &str = "in one whole list, 1 connection";
pub const MEMORY_BEFORE: &str = "before";
pub const MEMORY_MOST: &str = "at most";

const BLUE: &str = "#1f6fb2";
const GREEN: &str = "#2f7d4f";
const RED: &str = "#c8102e";
const GREY: &str = "#7a7a7a";

/// How long answers take, and how many there are, by connections. Nothing when neither was measured.
pub fn latency(report: &Report) -> Option<String> {
    let lines = |wanted: &[LineItem]| lines(report, wanted);
    let connections = || Axis::new("connections", Scale::Measured);
    let panels = [
        Panel {
            title: "How long an answer takes",
            x: connections(),
            y: Axis::new("ms", Scale::Powers),
            lines: lines(&[
                (ORDER_P50, BLUE, false),
                (ORDER_P99, BLUE, true),
                (LIST_P50, GREEN, false),
                (LIST_P99, GREEN, true),
            ]),
        },
        Panel {
            title: "How many are answered",
            x: connections(),
            y: Axis::new("answers per second", Scale::Powers),
            lines: lines(&[
                (LIST_RATE, GREEN, false),
                (ORDER_RATE, BLUE, false),
                (LIMIT_RATE, GREY, true),
            ]),
        },
    ];
    picture("Orders and lists under load", &report.place(), panels)
}

/// Pages and whole lists by the size of the catalogue. Nothing when they were not measured.
pub fn catalogue(report: &Report) -> Option<String> {
    let lines = |wanted: &[LineItem]| lines(report, wanted);
    let products = || Axis::new("products in the catalogue", Scale::Measured);
    let panels = [
        Panel {
            title: "How much is answered",
            x: products(),
            y: Axis::new("products per second", Scale::Powers),
            lines: lines(&[(PAGE_RATE, BLUE, false), (WHOLE_RATE, GREEN, false)]),
        },
        Panel {
            title: "How long a page of 50 takes",
            x: products(),
            y: Axis::new("ms", Scale::Powers),
            lines: lines(&[(PAGE_P50, BLUE, false), (PAGE_P99, BLUE, true)]),
        },
        Panel {
            title: "Memory of the catalog node around the whole list",
            x: products(),
            y: Axis::new("MB", Scale::Powers),
            lines: lines(&[(MEMORY_MOST, RED, false), (MEMORY_BEFORE, GREY, true)]),
        },
    ];
    picture("Lists by the size of the catalogue", &report.place(), panels)
}

/// A curve, its colour, and whether it is dashed.
type LineItem<'w> = (&'w str, &'static str, bool);

/// Those that were measured.
fn lines(report: &Report, wanted: &[LineItem]) -> Vec<Line> {
    let line = |(name, colour, dashed): &LineItem| {
        let curve = report.curve(name).filter(|curve| !curve.points.is_empty())?;
        let (name, points) = (curve.name.clone(), curve.points.clone());
        Some(Line { name, points, colour, dashed: *dashed })
    };
    wanted.iter().filter_map(line).collect()
}
