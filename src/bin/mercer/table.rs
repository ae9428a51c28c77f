//! Tables in plain text: no borders, columns as wide as the terminal shows them, so that Chinese and English line up.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width};

/// The narrowest that a title is cut to, in terminal columns.
const TITLE: u16 = 16;

/// One column.
pub struct Column {
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Title,
}

impl Column {
    /// Aligned to the right.
    pub fn number(name: impl Into<String>) -> Column {
        Column { name: name.into(), kind: Kind::Number }
    }

    /// Aligned to the left.
    pub fn text(name: impl Into<String>) -> Column {
        Column { name: name.into(), kind: Kind::Text }
    }

    /// Aligned to the left, and cut where the table would not fit the terminal.
    pub fn title(name: impl Into<String>) -> Column {
        Column { name: name.into(), kind: Kind::Title }
    }
}

/// The table, ended by a line break: for the terminal's width if standard output is one, else nothing is cut.
pub fn render(columns: &[Column], rows: &[Vec<String>]) -> String {
    layout(columns, rows, Table::new().width())
}

fn layout(columns: &[Column], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.force_no_tty().load_style(comfy_table::presets::NOTHING);
    match width {
        Some(width) => table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.set_truncation_indicator("…");
    let mut header = Row::from(columns.iter().map(|column| column.name.as_str()));
    header.max_height(1);
    table.set_header(header);
    for row in rows {
        let mut row = Row::from(row.iter().map(|cell| printable(cell)));
        row.max_height(1);
        table.add_row(row);
    }
    for (at, column) in columns.iter().enumerate() {
        let Some(cells) = table.column_mut(at) else { continue };
        cells.set_padding((0, if at + 1 < columns.len() { 2 } else { 0 }));
        if column.kind == Kind::Number {
            cells.set_cell_alignment(CellAlignment::Right);
        }
        match column.kind {
            Kind::Title if width.is_some() => {
                cells.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(TITLE)));
            }
            Kind::Title => {}
            Kind::Number | Kind::Text => {
                cells.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
    }
    table.trim_fmt() + "\n"
}

/// The text on one line, without characters that a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An integer with its thousands marked.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        vec![Column::number("rank"), Column::title("title"), Column::number("text")]
    }

    fn row(cells: [&str; 3]) -> Vec<String> {
        cells.map(String::from).to_vec()
    }

    #[test]
    fn wide_characters_take_two_places() {
        let rows = [row(["1", "黑色羽绒服", "0.61"]), row(["10", "black cap", "-0.05"])];
        let expected = "\
rank  title        text
   1  黑色羽绒服   0.61
  10  black cap   -0.05
";
        assert_eq!(layout(&columns(), &rows, None), expected);
    }

    #[test]
    fn long_titles_are_cut_to_the_terminal_and_nothing_else_is() {
        let rows = [row(["1", "黑色羽绒服 / black down jacket, very warm", "0.612345"])];
        let cut = layout(&columns(), &rows, Some(30));
        assert!(cut.contains('…') && cut.contains("0.612345"), "{cut}");
        assert_eq!(cut.lines().count(), 2, "{cut}");
        let narrow = layout(&columns(), &rows, Some(5));
        assert_eq!(narrow.lines().count(), 2, "{narrow}");
        let whole = layout(&columns(), &rows, None);
        assert!(whole.contains("very warm") && !whole.contains('…'), "{whole}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let rows = [row(["1", "a\nb\u{1b}[31mc", "0"])];
        let table = layout(&columns(), &rows, None);
        assert!(!table.contains('\u{1b}') && table.lines().count() == 2, "{table:?}");
    }

    #[test]
    fn thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
