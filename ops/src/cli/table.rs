//! Tables for people: plain columns, two spaces apart, no lines.

use comfy_table::{ContentArrangement, Table, TableStyle};

/// A table with these column heads.
pub fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads.iter().map(|head| head.to_uppercase()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The table as text with a final newline.
pub fn text(table: &Table) -> String {
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Milliseconds for people: `850ms`, `12s`, `5m30s`, `2h05m`, `3d4h`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A count with thin groups for people: `1 234 567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let check = |ms: u64, shown: &str| assert_eq!(duration(ms), shown);
        check(850, "850ms");
        check(12_900, "12s");
        check(330_000, "5m30s");
        check(7_500_000, "2h05m");
        check(273_600_000, "3d4h");
        let check = |number: u64, shown: &str| assert_eq!(count(number), shown);
        check(0, "0");
        check(999, "999");
        check(1_234_567, "1 234 567");
    }

    #[test]
    fn columns_are_plain() {
        let mut rows = table(&["name", "port"]);
        rows.add_row(["clients", "left"]);
        rows.add_row(["s", "right"]);
        assert_eq!(text(&rows), "NAME     PORT\nclients  left\ns        right\n");
    }
}
