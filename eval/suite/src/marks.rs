//! What is counted between the marks that the programs of Linux guests print.
//!
//! A program prints `MARK KIND begin` and `MARK KIND end`, and nothing runs near them. What the marks
//! themselves cost is what is counted between those of the kind `none`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Definitions for scripts: `marks` passes on what a guest prints, with the machine's counters behind
/// each mark, and then calls `marked LINE`, which a script may define anew.
pub const PRELUDE: &str = r#"
marked() { :; }
marks() {
    while IFS= read -r line; do
        case $line in
            MARK*)
                echo "$line $(./postern-init counters)"
                marked "$line" ;;
            *) echo "$line" ;;
        esac
    done
}
"#;

/// What was counted of each kind by the counters of these names, less what was counted of `none`.
///
/// # Errors
///
/// A kind has no end, or no counter of such a name; nothing was counted of `none`.
pub fn counts<const N: usize>(text: &str, names: [&str; N]) -> Result<BTreeMap<String, [u64; N]>> {
    let mut spans: BTreeMap<&str, [Option<[u64; N]>; 2]> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["MARK", kind, place, counters @ ..] = words.as_slice() else {
            continue;
        };
        let mut counts = [0; N];
        for (count, name) in counts.iter_mut().zip(names) {
            let at = counters.iter().position(|word| *word == name);
            let value = at.and_then(|at| counters.get(at + 1));
            let value = value.with_context(|| format!("no counter {name} in {line:?}"))?;
            *count = value
                .parse()
                .with_context(|| format!("no number in {line:?}"))?;
        }
        spans.entry(kind).or_default()[usize::from(*place == "end")] = Some(counts);
    }
    let mut of = BTreeMap::new();
    for (kind, span) in spans {
        let [Some(begin), Some(end)] = span else {
            anyhow::bail!("{kind} has no begin or no end: it printed {text}");
        };
        of.insert(kind.to_owned(), less(end, begin));
    }
    let nothing = of
        .remove("none")
        .with_context(|| format!("it printed {text}"))?;
    for counts in of.values_mut() {
        *counts = less(*counts, nothing);
    }
    Ok(of)
}

fn less<const N: usize>(mut counts: [u64; N], others: [u64; N]) -> [u64; N] {
    for (count, other) in counts.iter_mut().zip(others) {
        *count = count.saturating_sub(other);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_marks_is_counted() {
        let line =
            |kind, place, count| format!("MARK {kind} {place} guest 1 instructions {count}\r\n");
        let text = [
            line("none", "begin", 1000),
            line("none", "end", 3000),
            line("random", "begin", 10_000),
            line("random", "end", 12_007),
        ]
        .concat();
        let counts = counts::<2>;
        let wanted = [("random".to_owned(), [7, 0])].into();
        assert_eq!(counts(&text, ["instructions", "guest"]).unwrap(), wanted);
        for bad in [
            "",
            "MARK none begin\n",
            &line("none", "begin", 1),
            &line("none", "end", 1),
            &text.replace("guest", "host"),
            &(text.clone() + &line("sequential", "begin", 1)),
        ] {
            assert!(counts(bad, ["instructions", "guest"]).is_err(), "{bad}");
        }
    }
}
