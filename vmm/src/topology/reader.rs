//! Reading tables key by key: each mistake is noted with its place, and reading goes on, so that all
//! are told at once.
#![deny(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::ContentError;

/// Where the keys of a topology stand in its text: `vm.0.kernel`, by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(BTreeMap<String, usize>);

impl Places {
    /// The byte where a key stands; that of the table around it if it is not there.
    pub fn offset(&self, key: &str) -> usize {
        let mut key = key;
        loop {
            match (self.0.get(key), key.rsplit_once('.')) {
                (Some(offset), _) => return *offset,
                (None, Some((outer, _))) => key = outer,
                (None, None) => return 0,
            }
        }
    }

    /// A fault about a key.
    pub fn fault(&self, key: &str, message: impl Into<String>) -> ContentError {
        ContentError {
            offset: self.offset(key),
            message: message.into(),
        }
    }
}

/// What was found wrong so far, and where what stands.
#[derive(Debug, Default)]
pub(super) struct Reader {
    faults: Vec<ContentError>,
    places: Places,
}

impl Reader {
    /// Notes a mistake.
    pub(super) fn fault(&mut self, offset: usize, message: impl Into<String>) {
        self.faults.push(ContentError {
            offset,
            message: message.into(),
        });
    }

    /// The byte where a key stands.
    pub(super) fn offset(&self, key: &str) -> usize {
        self.places.offset(key)
    }

    /// The value, and what was wrong, in the order of the text.
    pub(super) fn finish<T>(mut self, value: T) -> (T, Places, Vec<ContentError>) {
        self.faults.sort_by_key(|fault| fault.offset);
        (value, self.places, self.faults)
    }
}

/// A value, and where its key stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) offset: usize,
}

/// One table, of which keys are taken.
pub(super) struct Section<'i> {
    /// As people know it: `[nic]`.
    title: String,
    /// As [`Places`] knows it: `nic.0`.
    place: String,
    /// Where it begins.
    pub(super) offset: usize,
    entries: Vec<(String, Range<usize>, Spanned<DeValue<'i>>)>,
    known: Vec<&'static str>,
    /// Those known that are not there.
    absent: Vec<&'static str>,
}

impl<'i> Section<'i> {
    pub(super) fn new(
        reader: &mut Reader,
        title: &str,
        place: String,
        offset: usize,
        table: DeTable<'i>,
    ) -> Section<'i> {
        let entries: Vec<_> = table
            .into_iter()
            .map(|(key, value)| {
                let span = key.span();
                (key.into_inner().into_owned(), span, value)
            })
            .collect();
        let places = &mut reader.places.0;
        places.insert(place.clone(), offset);
        for (key, span, _) in &entries {
            let name = match place.is_empty() {
                true => key.clone(),
                false => format!("{place}.{key}"),
            };
            places.insert(name, span.start);
        }
        Section {
            title: title.to_owned(),
            place,
            offset,
            entries,
            known: Vec::new(),
            absent: Vec::new(),
        }
    }

    fn raw(&mut self, key: &'static str) -> Option<(usize, Spanned<DeValue<'i>>)> {
        self.known.push(key);
        let Some(at) = self.entries.iter().position(|(name, ..)| name == key) else {
            self.absent.push(key);
            return None;
        };
        let (_, span, value) = self.entries.remove(at);
        Some((span.start, value))
    }

    /// The value of a key, if it is there and of that type.
    pub(super) fn take<T: Deserialize<'i>>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
    ) -> Option<At<T>> {
        let (offset, value) = self.raw(key)?;
        read(reader, key, value).map(|value| At { value, offset })
    }

    /// The file that a key names, relative to that directory.
    pub(super) fn file(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        directory: &Path,
    ) -> Option<At<PathBuf>> {
        let named = self.take::<PathBuf>(reader, key)?;
        if named.value.as_os_str().is_empty() {
            reader.fault(named.offset, format!("{key}: the name of a file is empty"));
            return None;
        }
        Some(At {
            value: directory.join(named.value),
            offset: named.offset,
        })
    }

    /// The same of a key that has to be there.
    pub(super) fn need_file(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        directory: &Path,
    ) -> Option<At<PathBuf>> {
        self.check_there(reader, key);
        self.file(reader, key, directory)
    }

    /// Whether a key is there that nobody has taken.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, ..)| name == key)
    }

    /// The value of a key that has to be there.
    pub(super) fn need<T: Deserialize<'i>>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
    ) -> Option<At<T>> {
        self.check_there(reader, key);
        self.take(reader, key)
    }

    /// Notes a key that has to be there and is not.
    fn check_there(&self, reader: &mut Reader, key: &str) {
        if !self.entries.iter().any(|(name, ..)| name == key) {
            // A misspelt one is told as such.
            let near = self.entries.iter().any(|(name, ..)| is_near(name, key));
            if !near {
                let message = format!(
                    "{} has no {key}, which it needs: add {key} = ...",
                    self.title
                );
                reader.fault(self.offset, message);
            }
        }
    }

    /// The tables of a key, one (`[key]`) or several (`[[key]]`), with the words before their names.
    pub(super) fn tables(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        title: &str,
    ) -> Vec<Section<'i>> {
        let Some((offset, value)) = self.raw(key) else {
            return Vec::new();
        };
        let place = |index: usize| match self.place.is_empty() {
            true => format!("{key}.{index}"),
            false => format!("{}.{key}.{index}", self.place),
        };
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => {
                vec![Section::new(reader, title, place(0), span.start, table)]
            }
            DeValue::Array(array) => {
                let mut sections = Vec::new();
                for (index, value) in array.into_iter().enumerate() {
                    let span = value.span();
                    match value.into_inner() {
                        DeValue::Table(table) => sections.push(Section::new(
                            reader,
                            title,
                            place(index),
                            span.start,
                            table,
                        )),
                        other => reader.fault(
                            span.start,
                            format!("{key} holds {}, not tables: write {title}", kind(&other)),
                        ),
                    }
                }
                sections
            }
            other => {
                let meant = self.absent.iter().find(|absent| is_near(absent, key));
                let hint = match meant {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => format!("write {title}"),
                };
                let message = format!("{key} is {}, not a table: {hint}", kind(&other));
                reader.fault(offset, message);
                Vec::new()
            }
        }
    }

    /// Every element of a list of one type; one element may stand alone.
    pub(super) fn list<T: Deserialize<'i>>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
    ) -> Vec<At<T>> {
        let Some((offset, value)) = self.raw(key) else {
            return Vec::new();
        };
        let span = value.span();
        let elements = match value.into_inner() {
            DeValue::Array(array) => array.into_iter().collect(),
            other => vec![Spanned::new(span, other)],
        };
        let several = elements.len() > 1;
        let mut list = Vec::new();
        for element in elements {
            let offset = if several {
                element.span().start
            } else {
                offset
            };
            if let Some(value) = read(reader, key, element) {
                let place = format!("{}.{key}.{}", self.place, list.len());
                reader.places.0.insert(place, offset);
                list.push(At { value, offset });
            }
        }
        list
    }

    /// Notes keys that nobody took.
    pub(super) fn finish(self, reader: &mut Reader) {
        for (key, span, _) in self.entries {
            let hint = hint(&key, &self.known);
            reader.fault(
                span.start,
                format!("there is no key {key} in {}; {hint}", self.title),
            );
        }
    }
}

/// Reads a value as that type.
fn read<'i, T: Deserialize<'i>>(
    reader: &mut Reader,
    key: &str,
    value: Spanned<DeValue<'i>>,
) -> Option<T> {
    let span = value.span();
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(value) => Some(value),
        Err(error) => {
            let offset = error.span().map_or(span.start, |inner| inner.start);
            let message = with_nearest(error.message());
            reader.fault(offset, format!("{key}: {message}"));
            None
        }
    }
}

/// What kind of value it is, for people.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// How unlike two keys may be, of which one is taken for the other misspelt.
const NEAR: f64 = 0.75;

fn is_near(one: &str, other: &str) -> bool {
    strsim::jaro_winkler(one, other) >= NEAR || strsim::damerau_levenshtein(one, other) <= 1
}

/// What is said of a word that is none of those known: the nearest, or all.
pub fn hint(word: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .min_by_key(|other| strsim::damerau_levenshtein(word, other));
    match nearest {
        Some(nearest) if is_near(word, nearest) => format!("did you mean {nearest}?"),
        _ => format!("there are {}", known.join(", ")),
    }
}

/// Adds the nearest word to serde's message about a field or variant that it does not know.
fn with_nearest(message: &str) -> String {
    let words: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match words.split_first() {
        Some((word, known)) if message.starts_with("unknown") && !known.is_empty() => {
            let nearest = known
                .iter()
                .min_by_key(|other| strsim::damerau_levenshtein(word, other));
            match nearest {
                Some(nearest) if is_near(word, nearest) => {
                    format!("{message}; did you mean {nearest}?")
                }
                _ => message.to_owned(),
            }
        }
        _ => message.to_owned(),
    }
}

/// Longest name: it becomes part of the name of a socket.
const MAX_NAME: usize = 40;

/// Whether something can be named so.
pub fn is_name(name: &str) -> bool {
    let printable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(printable)
        && !name.starts_with(['.', '-'])
}

/// Notes a name that is none.
pub(super) fn check_name(reader: &mut Reader, offset: usize, name: &str) {
    if !is_name(name) {
        let message = format!(
            "the name {name:?} is not made of letters, digits, '-', '_' and '.', {MAX_NAME} at most, \
             the first a letter, a digit or '_'"
        );
        reader.fault(offset, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_named() {
        let known = ["kernel", "memory", "cmdline", "vcpus"];
        assert_eq!(hint("kernal", &known), "did you mean kernel?");
        assert_eq!(hint("mem", &known), "did you mean memory?");
        assert_eq!(hint("vcpu", &known), "did you mean vcpus?");
        assert_eq!(
            hint("colour", &known),
            "there are kernel, memory, cmdline, vcpus"
        );
        let message = "unknown field `pth`, expected one of `path`, `readonly`";
        assert!(with_nearest(message).ends_with("did you mean path?"));
        assert_eq!(with_nearest("invalid type: map"), "invalid type: map");
    }

    #[test]
    fn a_place_that_is_not_written_is_that_of_its_table() {
        let mut reader = Reader::default();
        let table = DeTable::parse("a = 1\n[[vm]]\nname = 'x'").unwrap();
        let mut whole = Section::new(&mut reader, "", String::new(), 0, table.into_inner());
        let vms = whole.tables(&mut reader, "vm", "[[vm]]");
        assert_eq!(vms.len(), 1);
        let places = reader.places;
        assert_eq!(places.offset("a"), 0);
        assert_eq!(places.offset("vm.0.name"), 13);
        assert_eq!(places.offset("vm.0.kernel"), places.offset("vm.0"));
        assert_eq!(places.offset("nic.3.socket"), 0);
    }
}
