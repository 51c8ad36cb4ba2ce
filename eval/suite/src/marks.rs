//! What is counted between the marks that the programs of Linux guests print.
//!
//! A program prints `MARK KIND begin` and `MARK KIND end`, and nothing runs near them; a kind may come
//! several times. What the marks themselves cost is what is counted between those of the kind `none`.

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

/// What was counted of each kind by the counters of these names, each time that it came, less what was
/// counted of `none`, which comes first.
///
/// # Errors
///
/// A kind has no end, or no counter of such a name; nothing was counted of `none`.
pub fn counts<const N: usize>(
    text: &str,
    names: [&str; N],
) -> Result<BTreeMap<String, Vec<[u64; N]>>> {
    let mut begun: BTreeMap<&str, [u64; N]> = BTreeMap::new();
    let mut of: BTreeMap<String, Vec<[u64; N]>> = BTreeMap::new();
    let mut nothing = None;
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
        if *place == "begin" {
            begun.insert(kind, counts);
            continue;
        }
        let begin = begun.remove(kind);
        let begin = begin.with_context(|| format!("{kind} has no begin: it printed {text}"))?;
        let counts = less(counts, begin);
        if *kind == "none" {
            nothing = Some(counts);
        } else {
            let nothing = nothing.with_context(|| format!("it printed {text}"))?;
            of.entry((*kind).to_owned())
                .or_default()
                .push(less(counts, nothing));
        }
    }
    if let Some((kind, _)) = begun.first_key_value() {
        anyhow::bail!("{kind} has no end: it printed {text}");
    }
    nothing.with_context(|| format!("it printed {text}"))?;
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
            line("random", "begin", 20_000),
            line("random", "end", 22_005),
        ]
        .concat();
        let counts = counts::<2>;
        let wanted = [("random".to_owned(), vec![[7, 0], [5, 0]])].into();
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
