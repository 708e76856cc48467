//! Tables without borders that fit their terminal: columns that do not fit are left out, the
//! least needed first; ids are never cut, since they are there to be copied.

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use crate::cli::text::{clean, wrap};

/// Between two columns.
const GAP: usize = 2;

/// A column: its heading, and how it behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    heading: &'static str,
    right: bool,
    /// Columns with the highest number leave first; 0 never leaves.
    leaves: u8,
}

impl Column {
    /// A column of text that always stays.
    pub(crate) const fn new(heading: &'static str) -> Self {
        Self {
            heading,
            right: false,
            leaves: 0,
        }
    }

    /// Its numbers line up at their ends.
    pub(crate) const fn right(mut self) -> Self {
        self.right = true;
        self
    }

    /// It leaves where the terminal is narrow, the highest number first.
    pub(crate) const fn leaves(mut self, order: u8) -> Self {
        self.leaves = order;
        self
    }
}

/// One field of a row. Its text is clean.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A plain field.
    pub(crate) fn new(text: &str) -> Self {
        Self::styled(text, Style::new())
    }

    /// A field with a colour.
    pub(crate) fn styled(text: &str, style: Style) -> Self {
        Self {
            text: clean(text).into_owned(),
            style,
        }
    }

    fn width(&self) -> usize {
        self.text.width()
    }
}

/// A table that may come in pieces: later pieces line up with the first, unless a field is wider
/// than all before it.
pub(crate) struct Table {
    columns: Vec<Column>,
    widths: Vec<usize>,
    width_max: Option<usize>,
    shown: Option<Vec<usize>>,
}

impl Table {
    /// A table for a terminal of this width; `None` has room for everything.
    pub(crate) fn new(columns: &[Column], width_max: Option<usize>) -> Self {
        Self {
            columns: columns.to_vec(),
            widths: columns
                .iter()
                .map(|column| column.heading.width())
                .collect(),
            width_max,
            shown: None,
        }
    }

    /// The next lines of it, with the headings in front of the first.
    pub(crate) fn lines(&mut self, rows: &[Vec<Cell>]) -> Vec<String> {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let mut lines = Vec::with_capacity(rows.len() + 1);
        let first = self.shown.is_none();
        let shown = match &self.shown {
            Some(shown) => shown.clone(),
            None => self.choose(),
        };
        if first {
            let bold = Style::new().bold();
            let headings: Vec<Cell> = self
                .columns
                .iter()
                .map(|column| Cell::styled(column.heading, bold))
                .collect();
            lines.push(self.line(&headings, &shown));
        }
        lines.extend(rows.iter().map(|row| self.line(row, &shown)));
        self.shown = Some(shown);
        lines
    }

    fn choose(&self) -> Vec<usize> {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let Some(width_max) = self.width_max else {
            return shown;
        };
        loop {
            let width: usize = shown.iter().map(|index| self.widths[*index] + GAP).sum();
            if width <= width_max + GAP {
                return shown;
            }
            let next = shown
                .iter()
                .copied()
                .filter(|index| self.columns[*index].leaves > 0)
                .max_by_key(|index| self.columns[*index].leaves);
            match next {
                Some(leaving) => shown.retain(|index| *index != leaving),
                None => return shown,
            }
        }
    }

    fn line(&self, row: &[Cell], shown: &[usize]) -> String {
        let mut line = String::new();
        for (place, index) in shown.iter().enumerate() {
            let Some(cell) = row.get(*index) else {
                continue;
            };
            let pad = self.widths[*index].saturating_sub(cell.width());
            let style = cell.style;
            if self.columns[*index].right {
                line.push_str(&" ".repeat(pad));
            }
            line.push_str(&format!("{style}{}{style:#}", cell.text));
            if place + 1 < shown.len() {
                let pad = if self.columns[*index].right { 0 } else { pad };
                line.push_str(&" ".repeat(pad + GAP));
            }
        }
        line
    }
}

/// Names and values below each other; a value that is too long for its line goes on below itself.
pub(crate) fn pairs(pairs: &[(&str, Cell)], width_max: Option<usize>) -> Vec<String> {
    let width = pairs
        .iter()
        .map(|(name, _)| name.width())
        .max()
        .unwrap_or(0);
    let dim = Style::new().dimmed();
    let indent = " ".repeat(width + GAP);
    let mut lines = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let room = format!("{indent}{}", value.text);
        let style = value.style;
        for (number, line) in wrap(&room, width_max, &indent).iter().enumerate() {
            let text = line.get(indent.len()..).unwrap_or_default();
            let lead = match number {
                0 => {
                    let pad = " ".repeat(width.saturating_sub(name.width()) + GAP);
                    format!("{dim}{}{dim:#}{pad}", clean(name))
                }
                _ => indent.clone(),
            };
            lines.push(format!("{lead}{style}{text}{style:#}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column::new("ID"),
        Column::new("AMOUNT").right(),
        Column::new("NOTE").leaves(1),
    ];

    fn row(id: &str, amount: &str, note: &str) -> Vec<Cell> {
        vec![Cell::new(id), Cell::new(amount), Cell::new(note)]
    }

    fn plain(lines: &[String]) -> String {
        anstream::adapter::strip_str(&lines.join("\n")).to_string()
    }

    #[test]
    fn columns_line_up_by_what_is_seen() {
        let mut table = Table::new(COLUMNS, None);
        let lines = table.lines(&[row("漢", "1", "x\u{1b}y"), row("abc", "100", "")]);
        assert_eq!(
            plain(&lines),
            "ID   AMOUNT  NOTE\n漢        1  xy\nabc     100  "
        );
        assert_eq!(plain(&table.lines(&[row("d", "2", "z")])), "d         2  z");
    }

    #[test]
    fn a_long_value_goes_on_below_itself() {
        let rows = [("a", Cell::new("one two three")), ("bcd", Cell::new("x"))];
        assert_eq!(
            plain(&pairs(&rows, Some(12))),
            "a    one two\n     three\nbcd  x"
        );
        assert_eq!(plain(&pairs(&rows, None)), "a    one two three\nbcd  x");
        // There to be copied.
        let long = [("a", Cell::new("abc abcdefghijkl"))];
        assert_eq!(plain(&pairs(&long, Some(8))), "a  abc\n   abcdefghijkl");
    }

    #[test]
    fn where_it_is_narrow_the_least_needed_leaves() {
        let mut table = Table::new(COLUMNS, Some(12));
        assert_eq!(
            plain(&table.lines(&[row("a-long-id", "1", "note")])),
            "ID         AMOUNT\na-long-id       1"
        );
    }
}
