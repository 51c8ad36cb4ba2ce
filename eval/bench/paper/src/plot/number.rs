//! Numbers for people.

/// Formats a number for people: two to four significant digits, thousands apart.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        _ if value.fract() == 0.0 || size >= 100.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 0.1 => 2,
        _ if size >= 0.001 => 3,
        _ => 5,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text
        .split_once('.')
        .map_or((&text[..], None), |(whole, rest)| (whole, Some(rest)));
    let digits = whole.trim_start_matches('-');
    let mut grouped = String::new();
    for (n, digit) in digits.chars().enumerate() {
        // From ten thousand on, as figures of four digits are read at a glance.
        if n > 0 && digits.len() > 4 && (digits.len() - n).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    let sign = if whole.starts_with('-') { "-" } else { "" };
    match rest {
        Some(rest) => format!("{sign}{grouped}.{rest}"),
        None => format!("{sign}{grouped}"),
    }
}

/// A number beside an axis: without zeros that say nothing.
pub fn tick(value: f64) -> String {
    if value.abs() >= 1e6 {
        return format!("{} M", tick(value / 1e6));
    }
    let text = number(value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        for (value, text) in [(0.1, "0.1"), (2.5, "2.5"), (1000.0, "1000"), (5e7, "50 M")] {
            assert_eq!(tick(value), text);
        }
    }

    #[test]
    fn numbers_are_for_people() {
        for (value, text) in [
            (0.0, "0"),
            (0.0312, "0.031"),
            (0.000_12, "0.00012"),
            (0.5, "0.50"),
            (64.0, "64"),
            (3.566, "3.57"),
            (23.46, "23.5"),
            (812.7, "813"),
            (1234.5, "1234"),
            (12345.6, "12\u{202f}346"),
            (-1_234_567.0, "-1\u{202f}234\u{202f}567"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
