//! Names of code that runs in views.
#![deny(unsafe_code)]

use std::path::Path;

use anyhow::Context;
use object::{Object, ObjectSymbol, SymbolKind};
use postern_abi::PAGE_SIZE;
use postern_abi::view::{GATE_GVA, SERVICE_INDICES};
use postern_nic_client::file as named_file;

/// Largest program of a view that is read, in bytes.
const MAX_IMAGE: u64 = 64 << 20;

/// The functions of a view's program, by their addresses.
#[derive(Debug, Default)]
pub struct Symbols(Vec<Function>);

/// Address, size and name.
type Function = (u64, u64, String);

impl Symbols {
    /// Those of a program.
    pub fn read(file: &Path) -> anyhow::Result<Symbols> {
        let shown = file.display();
        let bytes = named_file::read(file, MAX_IMAGE).with_context(|| shown.to_string())?;
        let image =
            object::File::parse(&*bytes).with_context(|| format!("{shown} is no ELF file"))?;
        let functions = image
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text)
            .filter_map(|symbol| Some((symbol.address(), symbol.size(), symbol.name().ok()?)))
            // Without the hash that Rust adds.
            .map(|(start, size, name)| {
                (start, size, format!("{:#}", rustc_demangle::demangle(name)))
            });
        Ok(Symbols::new(functions))
    }

    /// Those that are given.
    pub fn new(functions: impl IntoIterator<Item = Function>) -> Symbols {
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort();
        Symbols(functions)
    }

    /// Whether no function is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The function at an address of a view, with the distance from its beginning. The gate and the
    /// stub through which a service is entered are the kernel's.
    pub fn find(&self, view: u32, address: u64) -> Option<String> {
        if let Some(offset) = address.checked_sub(GATE_GVA)
            && offset < PAGE_SIZE
        {
            let name = match SERVICE_INDICES.contains(&view) {
                true => "entry stub",
                false => "gate",
            };
            return Some(format!("{name}+{offset:#x}"));
        }
        let after = self.0.partition_point(|(start, ..)| *start <= address);
        let (start, size, name) = self.0[..after].last()?;
        let offset = address - start;
        (offset < (*size).max(1)).then(|| format!("{name}+{offset:#x}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use postern_abi::view::{IMAGE_GVA, STUB_GVA, gate_index};

    use super::*;

    #[test]
    fn functions_are_found_by_address() {
        let own = Symbols::read(&std::env::current_exe().unwrap()).unwrap();
        let view = SERVICE_INDICES[0];
        let named = |(_, size, name): &&Function| {
            *size > 4 && name.ends_with("functions_are_found_by_address")
        };
        let (start, ..) = own.0.iter().find(named).unwrap();
        let found = own.find(view, start + 1).unwrap();
        assert!(
            found.ends_with("trace::symbols::tests::functions_are_found_by_address+0x1"),
            "{found}"
        );
        assert_eq!(own.find(view, 1), None);
        assert!(!own.is_empty());
        assert!(Symbols::read(Path::new("/proc/version")).is_err());
    }

    #[test]
    fn what_the_kernel_made_is_named_by_the_view() {
        let none = Symbols::default();
        let find = |view, address| none.find(view, address);
        assert_eq!(find(gate_index(0), GATE_GVA + 8).unwrap(), "gate+0x8");
        let stub = find(SERVICE_INDICES[3], STUB_GVA).unwrap();
        assert_eq!(stub, format!("entry stub+{:#x}", STUB_GVA - GATE_GVA));
        for outside in [GATE_GVA - 1, GATE_GVA + PAGE_SIZE, IMAGE_GVA] {
            assert_eq!(find(gate_index(0), outside), None, "{outside:#x}");
        }
    }
}
