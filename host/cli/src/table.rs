//! The form of all tables: aligned columns without frames.

use comfy_table::{Cell, CellAlignment, Row, Table, presets};

/// Blanks between columns.
const GAP: u16 = 2;

/// Renders rows under a header, one line each; without a header if it is empty. Columns after the first `n_text` hold
/// numbers and are aligned to the right. No line ends with blanks.
pub fn table<R: Into<Row>>(header: &[&str], n_text: usize, rows: impl IntoIterator<Item = R>) -> String {
    let alignment = |index| if index < n_text { CellAlignment::Left } else { CellAlignment::Right };
    let mut table = Table::new();
    let titles = header.iter().enumerate();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(titles.map(|(index, title)| Cell::new(title).set_alignment(alignment(index))));
    }
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, GAP));
        column.set_cell_alignment(alignment(index));
    }
    table.to_string().lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_aligned_to_the_left_and_numbers_to_the_right() {
        let rows = [["cpu", "", "9,000"], ["a longer name", "note", "1"]];
        let expected = "\
tier           note   hits
cpu                  9,000
a longer name  note      1
";
        assert_eq!(table(&["tier", "note", "hits"], 2, rows), expected);
    }

    #[test]
    fn a_table_may_have_no_header_and_no_rows() {
        assert_eq!(table(&[], 2, [["a", "b"]]), "a  b\n");
        assert_eq!(table(&[], 2, Vec::<[String; 2]>::new()), "");
    }
}
