//! CR3 at page tables in the TX ring: tables that translate the gate's addresses to pages of the
//! guest's choice.

use postern_abi::PAGE_SIZE;
use postern_abi::view::{
    CALL_PAGE_GVA, GATE_AREA_GVA, GATE_GVA, LANDING_GVA, LIST_GVA, RESERVED_GPA, STACK_GVA,
    STACK_SIZE,
};

use super::attacker::{Attacker, PacketPage, SERVICE_INDEX};
use super::verdict::{Verdict, repelled, succeeded};
use crate::layout::SCRATCH;
use crate::syscall::{self, MAP_READ};

/// Bits of a page-table entry: present, writable, for user mode.
const ENTRY: u64 = 7;

/// Value of each byte of the guest's own page that stands for the EPTP list: the gate would clear a
/// bit of one.
const CANARY: u8 = 0xff;

/// Page tables made of packets.
struct Tables<'a> {
    attacker: &'a Attacker,
    root: PacketPage,
    used: u32,
}

impl<'a> Tables<'a> {
    fn new(attacker: &'a Attacker) -> Tables<'a> {
        Tables {
            attacker,
            root: attacker.packet_page(0),
            used: 1,
        }
    }

    fn map(&mut self, address: u64, physical: u64) {
        let index = |level: u32| (address >> (12 + 9 * level)) as usize & 511;
        let mut table = self.root;
        for level in [3, 2, 1] {
            let entry = table.read(index(level));
            let next = (1..self.used).map(|number| self.attacker.packet_page(number));
            let next = next
                .into_iter()
                .find(|page| page.physical | ENTRY == entry & !0x60);
            table = next.unwrap_or_else(|| {
                let page = self.attacker.packet_page(self.used);
                self.used += 1;
                (0..512).for_each(|index| page.write(index, 0));
                table.write(index(level), page.physical | ENTRY);
                page
            });
        }
        table.write(index(0), physical | ENTRY);
    }
}

/// Runs the attack.
pub fn run(attacker: &mut Attacker) -> Verdict {
    // SAFETY: the root that is in use stays in use.
    let own_root = unsafe { syscall::set_root(0) };
    // SAFETY: nothing refers to the scratch area.
    unsafe { syscall::map(SCRATCH, own_root, PAGE_SIZE, MAP_READ) };
    attacker.memory.bytes.fill(CANARY);
    let memory = attacker.memory.physical;

    let mut tables = Tables::new(attacker);
    for index in 0..512 {
        // SAFETY: the page is mapped for reading.
        let entry = unsafe { (SCRATCH as *const u64).add(index).read_volatile() };
        tables.root.write(index, entry);
    }
    tables.root.write((GATE_GVA >> 39) as usize & 511, 0);
    tables.map(GATE_AREA_GVA, attacker.page_a());
    tables.map(LANDING_GVA, attacker.page_c());
    // The gate's code lies there in every view.
    tables.map(GATE_GVA, RESERVED_GPA);
    tables.map(LIST_GVA, memory);
    tables.map(CALL_PAGE_GVA, memory + PAGE_SIZE);
    for page in 0..STACK_SIZE / PAGE_SIZE {
        tables.map(
            STACK_GVA + page * PAGE_SIZE,
            memory + (2 + page) * PAGE_SIZE,
        );
    }
    let root = tables.root.physical;

    let mut calls = 0;
    let mut aborts = 0;
    for _ in 0..100 {
        // SAFETY: the new root maps all that the old one did.
        unsafe { syscall::set_root(root) };
        let result = attacker.call();
        // SAFETY: this is the root that the program began with.
        unsafe { syscall::set_root(0) };
        match result {
            Ok(_) => calls += 1,
            Err(exception) if exception.is_abort() => aborts += 1,
            Err(exception) => return succeeded!("a call ended elsewhere: {exception}"),
        }
        if let Some(at) = attacker
            .memory
            .bytes
            .iter()
            .position(|&byte| byte != CANARY)
        {
            let entry = at as u32 / 8;
            return succeeded!(
                "the gate armed entry {entry:#x} (the service's: {SERVICE_INDEX:#x}) of a list of \
                 the guest's own"
            );
        }
    }
    repelled!("{calls} calls walked the view's own page tables, {aborts} were aborted")
}
