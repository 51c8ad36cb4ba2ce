//! The attacker: what a hostile guest has for an attack on the gate.

use core::ops::Range;
use core::ptr;

use postern_abi::PAGE_SIZE;
use postern_abi::platform::{CallPath, NIC_SLOT};
use postern_abi::port_word::PortWord;
use postern_abi::service::OP_NOP;
use postern_abi::view::{
    GATE_AREA_GVA, GATE_GVA, LANDING_GVA, SERVICE_INDICES, STUB_GVA, gate_index,
};
use postern_abi::window::{Geometry, PortId};
use postern_guest::gate::{self, ABORT_VECTOR, CodePage, Gate};
use postern_guest::ring::Window;
use postern_guest::service::{Hypercall, PortRequest, Service};

use super::super::arena::Pages;
use super::super::error::RoleError;
use super::super::idle::Idle;
use super::super::port;
use super::super::resources::Resources;
use super::enter::{Registers, enter};
use crate::exception::{Exception, catch_exception};
use crate::layout;
use crate::syscall::{self, MAP_EXECUTE};

/// Code of VMFUNC.
pub const VMFUNC: [u8; 3] = [0x0f, 0x01, 0xd4];

/// EPTP-list index of the NIC's gate view.
pub const GATE_INDEX: u32 = gate_index(NIC_SLOT);

/// EPTP-list index of the NIC view.
pub const SERVICE_INDEX: u32 = SERVICE_INDICES[NIC_SLOT as usize];

/// Page A as the library makes it.
static PAGE_A: CodePage = gate::page_a();

/// The guest's own page B where nothing is placed: INT3.
static PAGE_B: CodePage = [0xcc; PAGE_SIZE as usize];

/// A hostile guest's means: the gate, pages of code around it, pages of packets, memory.
pub struct Attacker {
    gate: Gate,
    port_word: PortWord,
    window: Window,
    /// Pages A, B and C, one after the other, as the attack wants them.
    code: Pages,
    /// The range of bytes of the code that are not as they were made.
    placed: Range<usize>,
    /// Memory for the attack: nothing else uses it.
    pub memory: Pages,
    /// The clock.
    pub idle: Idle,
}

/// Number of pages of [`Attacker::memory`].
pub const MEMORY_PAGES: usize = 8;

impl Attacker {
    /// Takes the gate into use, with pages A, B and C that can be changed.
    pub fn new(mut resources: Resources) -> Result<Attacker, RoleError> {
        let port_word = resources.options.nic.ok_or(RoleError::NoNic)?;
        let window = port::window(&resources)?;
        window.populate();
        let no_memory = || RoleError::Full { frames: 0 };
        let code = resources.arena.take_pages(3).ok_or_else(no_memory)?;
        let memory = resources.arena.take_pages(MEMORY_PAGES);
        let attacker = Attacker {
            // SAFETY: the kernel mapped the gate area for paths that have one, and the gate is used
            // on no other; this is CPL 3.
            gate: unsafe { Gate::new(NIC_SLOT) },
            port_word,
            window,
            code,
            placed: 0..0,
            memory: memory.ok_or_else(no_memory)?,
            idle: Idle::new(&resources.options),
        };
        let pages = [PAGE_A, PAGE_B, gate::page_c()];
        let bytes = pages.iter().flatten();
        for (target, byte) in attacker.code.bytes.iter_mut().zip(bytes) {
            *target = *byte;
        }
        attacker.map_code();
        Ok(attacker)
    }

    /// The guest-physical range of the NIC's memory that is the guest's own: empty on the direct
    /// path, where all of it is mapped and most of it is not the guest's.
    pub fn own_memory(&self) -> Range<u64> {
        let PortWord { gpa, size, .. } = self.port_word;
        match self.port_word.path {
            CallPath::Direct => gpa..gpa,
            _ => gpa..gpa + size,
        }
    }

    /// The window of the VM's port, which other processes than its driver do not map.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Whether calls go through the gate.
    pub fn has_gate(&self) -> bool {
        matches!(self.port_word.path, CallPath::Elisa | CallPath::ElisaStrict)
    }

    /// Makes a request on the VM's path.
    pub fn request(&mut self, word: u64, a: u64, b: u64) -> Option<u64> {
        // SAFETY: the VM is on that path, as the VMM says; this is CPL 3 with IOPL 3.
        unsafe {
            match self.port_word.path {
                CallPath::ExitKernel => Hypercall::new(NIC_SLOT).call(word, a, b),
                CallPath::ExitUser => PortRequest::new().call(word, a, b),
                _ => Some(self.gate.call(word, a, b)),
            }
        }
    }

    /// Makes an empty call.
    pub fn call(&mut self) -> Result<u64, Exception> {
        catch_exception(|| self.gate.call(OP_NOP, 0, 0))
    }

    /// Makes empty calls, up to `count`, until `done` is true after one.
    pub fn calls(&mut self, count: u32, mut done: impl FnMut() -> bool) -> Result<(), Exception> {
        catch_exception(|| {
            for _ in 0..count {
                self.gate.call(OP_NOP, 0, 0);
                if done() {
                    break;
                }
            }
        })
    }

    /// Guest-physical address of page A.
    pub fn page_a(&self) -> u64 {
        self.code.physical
    }

    /// Guest-physical address of page C.
    pub fn page_c(&self) -> u64 {
        self.code.physical + 2 * PAGE_SIZE
    }

    /// Maps the guest's own pages A, B and C for the program.
    pub fn map_code(&self) {
        for (page, address) in (0..).zip([GATE_AREA_GVA, GATE_GVA, LANDING_GVA]) {
            let physical = self.code.physical + page * PAGE_SIZE;
            // SAFETY: no reference leads to the gate area.
            unsafe { syscall::map(address, physical, PAGE_SIZE, MAP_EXECUTE) };
        }
    }

    /// Writes code into the guest's own pages A and B such that it ends right before `end`, in the
    /// default view, in place of what was written before. Gives its address.
    pub fn place_code(&mut self, end: u64, code: &[u8]) -> u64 {
        self.reset_code();
        let start = end - code.len() as u64;
        let offset = (start - GATE_AREA_GVA) as usize;
        self.placed = offset..offset + code.len();
        self.code.bytes[self.placed.clone()].copy_from_slice(code);
        start
    }

    /// Makes page A as the library has it and page B without code again.
    pub fn reset_code(&mut self) {
        let original = PAGE_A.iter().chain(&PAGE_B).skip(self.placed.start);
        for (byte, original) in self.code.bytes[self.placed.clone()]
            .iter_mut()
            .zip(original)
        {
            *byte = *original;
        }
    }

    /// Whether VMFUNC from the default view enters the service's view.
    pub fn entry_is_armed(&mut self) -> bool {
        self.vmfunc(0, SERVICE_INDEX).is_ok()
    }

    /// Executes VMFUNC such that the next instruction is where the entry stub would be.
    pub fn vmfunc(&mut self, function: u32, index: u32) -> Result<u64, Exception> {
        let target = self.place_code(STUB_GVA, &VMFUNC);
        let registers = Registers {
            rax: function.into(),
            rcx: index.into(),
            rdi: OP_NOP,
            target,
            ..Registers::default()
        };
        // SAFETY: VMFUNC fails, or an empty call is made.
        let result = unsafe { enter(&registers) };
        self.reset_code();
        result
    }

    /// The VM's port.
    pub fn port(&self) -> PortId {
        self.port_word.port
    }

    /// The NIC's numbers of ports and queues and sizes of rings.
    pub fn geometry(&self) -> Geometry {
        self.window.geometry()
    }

    /// The page of this number of the first TX ring, which holds nothing but packets.
    pub fn packet_page(&self, number: u32) -> PacketPage {
        let offset = u64::from(number) * PAGE_SIZE;
        let size = u64::from(self.geometry().ring());
        assert!(
            offset < size,
            "a TX ring of {size} bytes has no page {number}"
        );
        let offset = self.geometry().tx_ring_offset(0) + offset;
        PacketPage {
            offset,
            address: layout::WINDOW + offset,
            physical: self.port_word.gpa + offset,
        }
    }
}

/// A page of a TX ring.
#[derive(Clone, Copy)]
pub struct PacketPage {
    /// Offset in the window.
    pub offset: u64,
    address: u64,
    /// Guest-physical address in the default view.
    pub physical: u64,
}

impl PacketPage {
    /// Writes the 64-bit word of that number.
    pub fn write(self, index: usize, value: u64) {
        assert!(index < 512, "a page has 512 words");
        // SAFETY: the page lies in the window, which only raw pointers lead to.
        unsafe { ptr::write_volatile((self.address as *mut u64).add(index), value) }
    }

    /// Reads the 64-bit word of that number.
    pub fn read(self, index: usize) -> u64 {
        assert!(index < 512, "a page has 512 words");
        // SAFETY: the page lies in the window, which only raw pointers lead to.
        unsafe { ptr::read_volatile((self.address as *const u64).add(index)) }
    }
}

/// Whether an exception is the one that a refused VMFUNC at address `at` raises.
pub fn is_refused_vmfunc(exception: &Exception, at: u64) -> bool {
    exception.is_abort() || exception.vector == u64::from(ABORT_VECTOR) && exception.rip == at
}
