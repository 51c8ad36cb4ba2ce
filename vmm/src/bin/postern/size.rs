//! Sizes as people write them.

/// Parses a number of bytes with an optional unit: `65536`, `512K`, `64M`, `2G`.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        unit => return Err(format!("unknown unit {unit:?}: use K, M or G")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a size such as 64M or 2G"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is more than a machine can address"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("512K"), Ok(512 << 10));
        assert_eq!(parse("64M"), Ok(64 << 20));
        assert_eq!(parse("2GiB"), Ok(2 << 30));
        for bad in ["", "M", "-1", "64X", "1.5G", "99999999999G", "64 M"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
