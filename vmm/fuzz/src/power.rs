//! The registers by which a guest ends or resets its VM, and says that it has panicked. Input:
//! accesses to these ports and to those beside them.
#![forbid(unsafe_code)]

use postern_fuzz_input::Bytes;
use postern_vmm::devices::{Bus, Effect, PanicPort, PowerPorts};

/// What a write has to mean: what ACPI ("Sleep Control and Status Registers"), the reset control
/// register of PCs, their keyboard controller and QEMU's docs/specs/pvpanic say, written down once
/// more.
fn meant(port: u16, data: &[u8]) -> &'static str {
    match (port, data) {
        // SLP_EN with the sleep type of S5.
        (0x600, &[value]) if value & 0x20 != 0 && value & 0x1c == 5 << 2 => "power-off",
        (0xcf9, &[value]) if value & 4 != 0 => "reset",
        (0x64, &[0xfe]) => "reset",
        (0x505, &[value]) if value & 1 != 0 => "panic",
        _ => "nothing",
    }
}

/// What a read of a byte has to give; wider ones, and ports beside, read as all ones.
fn shown(port: u16) -> u8 {
    match port {
        0x600 | 0x601 | 0xcf9 | 0x64 => 0,
        0x505 => 3,
        _ => 0xff,
    }
}

/// Ports of interest, each with those around it.
const PORTS: [u16; 4] = [0x600, 0xcf9, 0x64, 0x505];

/// Runs an input.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let mut bus = Bus::new();
    PowerPorts::add_to(&mut bus);
    bus.add(PanicPort::PORT, 1, Box::new(PanicPort));
    let mut strays = 0;
    while !input.is_empty() {
        let step = input.u8();
        let near = u16::from(input.u8() & 7).wrapping_sub(3);
        let port = match step >> 3 & 7 {
            kind @ 0..=3 => PORTS[usize::from(kind)],
            kind @ 4..=6 => PORTS[usize::from(kind) - 4].wrapping_add(near),
            _ => input.u16(),
        };
        let width = [1, 1, 2, 4][usize::from(step >> 1 & 3)];
        if !matches!(port, 0x600 | 0x601 | 0xcf9 | 0x64 | 0x505) {
            strays += 1;
        }
        let mut data = input.u32().to_le_bytes();
        let data = &mut data[..width];
        if step & 1 == 0 {
            bus.read(port, data);
            let wanted = if width == 1 { shown(port) } else { 0xff };
            assert!(
                data.iter().all(|&byte| byte == wanted),
                "{port:#x}: {data:x?}"
            );
            continue;
        }
        let effect = match bus.write(port, data) {
            Effect::Continue => "nothing",
            Effect::PowerOff => "power-off",
            Effect::Reset => "reset",
            Effect::Panic => "panic",
            other => panic!("{port:#x} {data:x?}: {other:?}"),
        };
        assert_eq!(effect, meant(port, data), "{port:#x} {data:x?}");
    }
    assert_eq!(bus.strays(), strays);
}
