//! Tables, also as JSON: the choices of `--format`.

use std::io::{self, Write};

use anstyle::Style;
use tabled::builder::Builder;
use tabled::settings::object::Rows;
use tabled::settings::peaker::Priority;
use tabled::settings::{Color, Modify, Padding, Style as Borders, Width};

use super::output;

/// How a listing is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: aligned columns.
    #[default]
    Table,
    /// For programs: one JSON object a line.
    Json,
}

/// `--format`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct FormatArgs {
    /// How to write it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: Format,
}

/// A table: headings, and cells with their colours.
#[derive(Debug)]
pub struct Table {
    builder: Builder,
    colours: Vec<((usize, usize), Style)>,
    rows: usize,
}

impl Table {
    /// A table with these headings and no rows.
    pub fn new<const COLUMNS: usize>(headings: [&str; COLUMNS]) -> Self {
        let mut builder = Builder::default();
        builder.push_record(headings);
        Self {
            builder,
            colours: Vec::new(),
            rows: 0,
        }
    }

    /// Adds a row; each cell may have a colour.
    pub fn row<const COLUMNS: usize>(&mut self, cells: [(String, Option<Style>); COLUMNS]) {
        self.rows += 1;
        for (column, (text, style)) in cells.iter().enumerate() {
            if let Some(style) = style.filter(|_| !text.is_empty()) {
                self.colours.push(((self.rows, column), style));
            }
        }
        self.builder.push_record(cells.map(|(text, _)| text));
    }

    /// The table as text, with colours, without trailing blanks; no wider than `width` columns, if
    /// words can be wrapped.
    pub fn render(self, width: Option<usize>) -> String {
        let mut table = self.builder.build();
        table
            .with(Borders::empty())
            .with(Padding::new(0, 2, 0, 0))
            .with(Modify::new(Rows::first()).with(colour(output::BOLD)));
        for (cell, style) in self.colours {
            table.with(Modify::new(cell).with(colour(style)));
        }
        if let Some(width) = width.filter(|width| *width < table.total_width()) {
            table.with(Width::wrap(width).keep_words(true).priority(Priority::max(true)));
        }
        let text = table.to_string();
        text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
    }

    /// Writes the table to standard output.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn print(self) -> anyhow::Result<()> {
        output::stdout().write_all(self.render(None).as_bytes())?;
        Ok(())
    }

    /// Writes the table to standard output, wrapped if that is a terminal.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn print_wrapped(self) -> anyhow::Result<()> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let width = size.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
        output::stdout().write_all(self.render(width).as_bytes())?;
        Ok(())
    }
}

fn colour(style: Style) -> Color {
    Color::new(style.render().to_string(), style.render_reset().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let mut table = Table::new(["NAME", "STATE", "DETAIL"]);
        table.row([
            ("web".into(), None),
            ("running".into(), Some(output::DIM)),
            (String::new(), None),
        ]);
        table.row([
            ("database".into(), None),
            ("imaginary".into(), None),
            ("why".into(), None),
        ]);
        let plain = anstream::adapter::strip_str(&table.render(None)).to_string();
        let lines: Vec<&str> = plain.lines().collect();
        assert_eq!(
            lines,
            [
                "NAME      STATE      DETAIL",
                "web       running",
                "database  imaginary  why",
            ]
        );
    }
}
