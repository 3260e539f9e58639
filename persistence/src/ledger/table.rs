//! The ledger as a table of text.

use std::fmt::{self, Display};

use super::{Ledger, OutboxBacklog, ProductFigures, StockFigures, TableChecksum};

impl Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_products(f)?;
        writeln!(f)?;
        for TableChecksum { what, node, count, checksum } in &self.copies {
            writeln!(f, "{what:>10} {node:>12} {count:>12} {checksum:>25}")?;
        }
        for OutboxBacklog { node, length, age_seconds } in &self.outboxes {
            writeln!(f, "{:>10} {node:>12} {length:>12} {age_seconds:>23.1} s", "outbox")?;
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        if self.more_differences > 0 {
            writeln!(f, "and {} more differences", self.more_differences)?;
        }
        match self.differences.len() + self.more_differences {
            0 => writeln!(f, "no differences"),
            1 => writeln!(f, "1 difference"),
            many => writeln!(f, "{many} differences"),
        }
    }
}

impl Ledger {
    fn write_products(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |figures: Option<StockFigures>, figure: fn(&StockFigures) -> i64| {
            figures.as_ref().map_or("-".to_owned(), |figures| figure(figures).to_string())
        };
        writeln!(
            f,
            "{:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "product", "stocked", "(order)", "sold", "(order)", "left", "(order)"
        )?;
        for ProductFigures { product_id, name, catalog, order } in &self.products {
            let figures: [fn(&StockFigures) -> i64; 3] =
                [|of| of.stocked, |of| of.sold, |of| of.left];
            write!(f, "{product_id:>10}")?;
            for figure in figures {
                write!(f, " {:>10} {:>10}", show(*catalog, figure), show(*order, figure))?;
            }
            writeln!(f, "  {name}")?;
        }
        if self.products.len() < self.products_in_all {
            writeln!(f, "{:>10} of {} products", self.products.len(), self.products_in_all)?;
        }
        Ok(())
    }
}
