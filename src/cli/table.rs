//! Text tables: columns under headings, as wide as their cells. On a terminal that is too narrow for
//! a table, each row becomes a paragraph: its first cell, and below it the others with their headings.

use super::human::wrapped;
use super::output::{PLAIN, Screen, YELLOW};
use std::fmt::{self, Display};

/// The alignment of a column's cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A cell's text, and whether it shows something wrong.
#[derive(Debug)]
pub(super) struct Cell {
    text: String,
    is_wrong: bool,
}

impl Cell {
    /// Makes a cell that is highlighted if `is_wrong`.
    pub(super) fn marked(text: String, is_wrong: bool) -> Self {
        Self { text, is_wrong }
    }

    fn len(&self) -> usize {
        self.text.chars().count()
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::marked(text, false)
    }
}

/// A table of `N` columns. Its text has a line for the headings, one for each row, and no
/// trailing blanks.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    columns: [(String, Align); N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [(&str, Align); N]) -> Self {
        Self {
            columns: columns.map(|(heading, align)| (heading.to_owned(), align)),
            rows: Vec::new(),
        }
    }

    pub(super) fn row<C: Into<Cell>>(&mut self, cells: [C; N]) {
        self.rows.push(cells.map(Into::into));
    }

    /// Renders the table for a screen.
    pub(super) fn on(&self, screen: Screen) -> String {
        let widths = self.widths();
        let whole = widths.iter().sum::<usize>() + 2 * N.saturating_sub(1);
        match screen.columns {
            Some(columns) if whole > columns => self.paragraphs(columns, screen.colours),
            _ => self.lines(&widths, screen.colours),
        }
    }

    fn widths(&self) -> [usize; N] {
        let mut widths = [0; N];
        for (width, (heading, _)) in widths.iter_mut().zip(&self.columns) {
            *width = heading.chars().count();
        }
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        widths
    }

    fn lines(&self, widths: &[usize; N], colours: bool) -> String {
        let headings = self
            .columns
            .each_ref()
            .map(|(heading, _)| Cell::from(heading.clone()));
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), (_, align)) in row.iter().zip(widths).zip(&self.columns) {
                let padding = " ".repeat(width - cell.len());
                let shown = shown(cell, colours);
                line += &match align {
                    Align::Left => format!("{shown}{padding}  "),
                    Align::Right => format!("{padding}{shown}  "),
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    fn paragraphs(&self, columns: usize, colours: bool) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let mut cells = row.iter().zip(&self.columns);
            if let Some((first, _)) = cells.next() {
                text += &format!("{}\n", shown(first, colours));
            }
            let filled = cells.filter(|(cell, _)| !cell.text.is_empty());
            let parts = filled.map(|(cell, (heading, _))| {
                let length = heading.chars().count() + 1 + cell.len();
                (format!("{heading} {}", shown(cell, colours)), length)
            });
            text += &wrapped(parts, columns);
        }
        text
    }
}

impl<const N: usize> Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.on(Screen::default()))
    }
}

fn shown(cell: &Cell, colours: bool) -> String {
    match colours && cell.is_wrong {
        true => format!("{YELLOW}{}{PLAIN}", cell.text),
        false => cell.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([
            ("NAME", Align::Left),
            ("N", Align::Right),
            ("NOTE", Align::Left),
        ]);
        table.row(["jürgen", "7", ""].map(str::to_owned));
        table.row(["b", "1000", "x"].map(str::to_owned));
        assert_eq!(
            table.to_string(),
            "NAME       N  NOTE\n\
             jürgen     7\n\
             b       1000  x\n"
        );
    }

    #[test]
    fn on_a_narrow_terminal_rows_are_paragraphs() {
        let mut table = Table::new([
            ("NAME", Align::Left),
            ("ENDPOINT", Align::Left),
            ("N", Align::Right),
            ("NOTE", Align::Left),
        ]);
        table.row(["anna", "192.0.2.1:5", "7", ""].map(str::to_owned));
        table.row(["b", "192.0.2.2:5", "1000", "ill"].map(str::to_owned));
        let screen = |columns| Screen {
            columns: Some(columns),
            colours: false,
        };
        assert_eq!(table.on(screen(29)), table.to_string());
        assert_eq!(
            table.on(screen(28)),
            "anna\n  ENDPOINT 192.0.2.1:5  N 7\nb\n  ENDPOINT 192.0.2.2:5\n  N 1000  NOTE ill\n"
        );
    }

    #[test]
    fn only_what_is_wrong_has_a_colour() {
        let mut table = Table::new([("A", Align::Left), ("B", Align::Right)]);
        table.row([Cell::from("x".to_owned()), Cell::marked("7".into(), true)]);
        let coloured = Screen {
            colours: true,
            ..Screen::default()
        };
        assert_eq!(table.on(coloured), "A  B\nx  \x1b[1;33m7\x1b[0m\n");
        assert_eq!(table.to_string(), "A  B\nx  7\n");
    }

    #[test]
    fn a_table_without_rows_is_its_headings() {
        let table = Table::<2>::new([("A", Align::Left), ("B", Align::Right)]);
        assert_eq!(table.to_string(), "A  B\n");
    }
}
