//! The charts of the report as SVG. Each chart has one or more panels.

mod sheet;

use sheet::{Axis, Line, Panel, Scale, render};

use crate::report::Report;

pub const LIST_RATE: &str = "GET products";
pub const LIST_P50: &str = "GET products, p50";
pub const LIST_P99: &str = "GET products, p99";
pub const ORDER_RATE: &str = "POST order";
pub const ORDER_P50: &str = "POST order, p50";
pub const ORDER_P99: &str = "POST order, p99";
pub const PGBENCH_RATE: &str = "pgbench, highest rate";
pub const PAGE_RATE: &str = "pages of 50 by cursor, 8 connections";
pub const PAGE_P50: &str = "page of 50, p50";
pub const PAGE_P99: &str = "page of 50, p99";
pub const WHOLE_LIST_RATE: &str = "whole list, 1 connection";
pub const MEMORY_BEFORE: &str = "before the request";
pub const MEMORY_PEAK: &str = "peak";

const BLUE: &str = "#1f6fb2";
const GREEN: &str = "#2f7d4f";
const RED: &str = "#c8102e";
const GREY: &str = "#7a7a7a";

/// Response times and throughput by connections. `None` if neither was measured.
pub fn latency(report: &Report) -> Option<String> {
    let lines = |wanted: &[LineSpec]| lines(report, wanted);
    let connections = || Axis::new("connections", Scale::Measured);
    let panels = [
        Panel {
            title: "Response time",
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
            title: "Throughput",
            x: connections(),
            y: Axis::new("responses per second", Scale::Powers),
            lines: lines(&[
                (LIST_RATE, GREEN, false),
                (ORDER_RATE, BLUE, false),
                (PGBENCH_RATE, GREY, true),
            ]),
        },
    ];
    render("Orders and lists under load", &report.environment(), panels)
}

/// Pages and whole lists by the size of the catalogue. `None` if they were not measured.
pub fn catalogue(report: &Report) -> Option<String> {
    let lines = |wanted: &[LineSpec]| lines(report, wanted);
    let products = || Axis::new("products in the catalogue", Scale::Measured);
    let panels = [
        Panel {
            title: "Throughput",
            x: products(),
            y: Axis::new("products per second", Scale::Powers),
            lines: lines(&[(PAGE_RATE, BLUE, false), (WHOLE_LIST_RATE, GREEN, false)]),
        },
        Panel {
            title: "Response time of a page of 50",
            x: products(),
            y: Axis::new("ms", Scale::Powers),
            lines: lines(&[(PAGE_P50, BLUE, false), (PAGE_P99, BLUE, true)]),
        },
        Panel {
            title: "Memory of the catalog node during a response with the whole list",
            x: products(),
            y: Axis::new("MB", Scale::Powers),
            lines: lines(&[(MEMORY_PEAK, RED, false), (MEMORY_BEFORE, GREY, true)]),
        },
    ];
    render("Lists by the size of the catalogue", &report.environment(), panels)
}

/// The name of a curve, its colour, and whether it is dashed.
type LineSpec<'w> = (&'w str, &'static str, bool);

/// Lines of the curves that were measured.
fn lines(report: &Report, wanted: &[LineSpec]) -> Vec<Line> {
    let line = |(name, colour, dashed): &LineSpec| {
        let curve = report.curve(name).filter(|curve| !curve.points.is_empty())?;
        let (name, points) = (curve.name.clone(), curve.points.clone());
        Some(Line { name, points, colour, dashed: *dashed })
    };
    wanted.iter().filter_map(line).collect()
}
