//! The freestanding builds of the switch: the form of their files, and the instructions in them.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;
mod inspect;

use std::fs;

use common::build::{image, kernel_object};
use inspect::{
    Function, RETURN_THUNK, Vectors, functions, problems, returns_of_its_own, stack_depth,
};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags};
use postern_abi::view::{IMAGE_GVA, ImageHeader, STACK_SIZE};
use postern_nic_client::protocol::Status;
use postern_nic_client::request::{self, ClientError};
use postern_nic_owner::image::{Image, ImageError};
use postern_nic_owner::server::{Server, ServerOptions};
use proptest::prelude::*;

/// A NIC view uses vector registers in one routine alone.
const IMAGE_VECTORS: Vectors = Vectors::Lent("copy_by_lent_registers");

#[test]
fn code_of_the_image() {
    let functions = functions(image());
    assert!(functions.len() > 2);
    assert_eq!(problems(&functions, IMAGE_VECTORS), [] as [String; 0]);
    // There is that routine, and it does what the inspection allows it.
    let refused = problems(&functions, Vectors::Never);
    assert!(
        !refused.is_empty()
            && refused
                .iter()
                .all(|problem| problem.contains(": not of the plain")),
        "{refused:?}"
    );
    let stack = stack_depth(&functions, "entry");
    println!("stack of the image: {stack} bytes");
    assert!((1024..STACK_SIZE / 2).contains(&stack), "{stack}");
}

#[test]
fn code_of_the_kernel_object() {
    let functions = functions(kernel_object());
    assert!(functions.len() > 3);
    assert_eq!(problems(&functions, Vectors::Never), [] as [String; 0]);
    let stack = stack_depth(&functions, "postern_nic_call");
    println!("stack of the kernel object: {stack} bytes");
    assert!((1024..4096).contains(&stack), "{stack}");
    assert_eq!(returns_of_its_own(&functions), [] as [String; 0]);
}

/// The empty request, with which the cost of a call is measured, is four instructions.
#[test]
fn an_empty_request_is_four_instructions() {
    for (file, entry) in [(image(), "entry"), (kernel_object(), "postern_nic_call")] {
        let functions = functions(file);
        let entry = functions
            .iter()
            .find(|function| function.name == entry)
            .unwrap();
        let mut at = entry.address;
        let mut executed = Vec::new();
        loop {
            let code = &entry.code[(at - entry.address) as usize..];
            let options = iced_x86::DecoderOptions::NONE;
            let next = iced_x86::Decoder::with_ip(64, code, at, options).decode();
            executed.push(next.to_string());
            at = match next.mnemonic() {
                _ if entry.returns_by(&next) => break,
                // The request number is zero.
                iced_x86::Mnemonic::Je => next.near_branch64(),
                _ => next.next_ip(),
            };
        }
        assert!(executed[0].starts_with("test"), "{executed:?}");
        assert_eq!(executed.len(), 4, "{executed:?}");
    }
}

/// The inspection finds each problem that it looks for.
#[test]
fn the_inspection_can_fail() {
    let bad: [(&[u8], &str); 12] = [
        (&[0xff, 0xe0], "indirect"),                   // jmp rax
        (&[0xff, 0x24, 0xc5, 0, 0, 0, 0], "indirect"), // jmp [rax*8]
        (&[0xff, 0x10], "indirect"),                   // call [rax]
        (&[0x0f, 0x0b], "trap"),                       // ud2
        (&[0xcc], "trap"),                             // int3
        (&[0x0f, 0x28, 0xc1], "plain"),                // movaps xmm0, xmm1
        (&[0xc5, 0xfc, 0x28, 0xc1], "plain"),          // vmovaps ymm0, ymm1
        (&[0x0f, 0x31], "plain"),                      // rdtsc
        (&[0xf4], "privileged"),                       // hlt
        (&[0xf3, 0xa4], "direction"),                  // rep movsb
        (&[0x48, 0x89, 0x44, 0x24, 0xf8], "red zone"), // mov [rsp-8], rax
        (&[0x06], "no instruction"),
    ];
    for (code, expected) in bad {
        let found = problems(&[Function::new("f", 0x1000, code)], IMAGE_VECTORS);
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{code:x?}: {found:?}"
        );
    }
    // Inside of the routine that may use the registers that are lent.
    const LOAD: [u8; 4] = [0xc5, 0xfc, 0x10, 0x07]; // vmovups ymm0, [rdi]
    const ZERO: [u8; 4] = [0xc5, 0xf8, 0x57, 0xc0]; // vxorps xmm0, xmm0, xmm0
    const UPPER: [u8; 3] = [0xc5, 0xf8, 0x77]; // vzeroupper
    const RET: [u8; 1] = [0xc3];
    let lent: [(&[&[u8]], &str); 8] = [
        (&[&LOAD, &ZERO, &UPPER, &RET], ""),
        (&[&LOAD, &ZERO, &RET], "leaves 0x10"),
        (&[&LOAD, &UPPER, &RET], "leaves 0x1"),
        (&[&ZERO, &UPPER, &LOAD, &RET], "leaves 0x11"),
        // jz over the zeros
        (&[&LOAD, &[0x74, 0x07], &ZERO, &UPPER, &RET], "leaves 0x11"),
        // call while something is in them
        (
            &[&LOAD, &[0xe8, 0, 0, 0, 0], &ZERO, &UPPER, &RET],
            "leaves 0x11",
        ),
        (&[&[0xc5, 0xfc, 0x10, 0x27], &RET], "plain"), // vmovups ymm4, [rdi]
        (&[&[0x0f, 0x10, 0x07], &RET], "plain"),       // movups xmm0, [rdi]
    ];
    for (code, expected) in lent {
        let routine = Function::new("copy_by_lent_registers", 0x1000, &code.concat());
        let found = problems(&[routine], IMAGE_VECTORS);
        assert!(
            match expected {
                "" => found.is_empty(),
                _ => found.iter().any(|problem| problem.contains(expected)),
            },
            "{code:x?}: {found:?}, expected {expected:?}"
        );
    }
    let returns: [&[u8]; 2] = [&[0xc3], &[0xc2, 8, 0]]; // ret, ret 8
    for code in returns {
        let found = returns_of_its_own(&[Function::new("f", 0, code)]);
        assert_eq!(found.len(), 1, "{code:x?}: {found:?}");
    }
    let library = Function::new("_ZN4core9panicking5panic17hE", 0, &[0xc3]);
    assert_eq!(problems(&[library], Vectors::Never).len(), 1);
    // push rax; sub rsp, 0x100; call +0 (g); add rsp, 0x100; pop rax; ret
    let f = [
        0x50, 0x48, 0x81, 0xec, 0, 1, 0, 0, 0xe8, 0x0a, 0, 0, 0, 0x48, 0x81, 0xc4, 0, 1, 0, 0,
        0x58, 0xc3,
    ];
    let g = Function::new("g", 0x1017, &[0x53, 0x5b, 0xc3]); // push rbx; pop rbx; ret
    let both = [Function::new("f", 0x1000, &f), g];
    assert_eq!(problems(&both, Vectors::Never), [] as [String; 0]);
    assert_eq!(stack_depth(&both, "f"), 8 + 8 + 0x100 + 8 + 8);
}

#[test]
fn symbols_and_sections_of_the_kernel_object() {
    let elf = object::File::parse(kernel_object()).unwrap();
    let undefined: Vec<_> = elf
        .symbols()
        .filter(|symbol| symbol.is_undefined())
        .map(|symbol| symbol.name().unwrap())
        .collect();
    assert_eq!(undefined, [RETURN_THUNK]);
    let global = elf
        .symbols()
        .filter(|symbol| symbol.is_global() && symbol.is_definition());
    let mut global: Vec<_> = global.map(|symbol| symbol.name().unwrap()).collect();
    global.sort_unstable();
    assert_eq!(
        global,
        [
            "postern_nic_call",
            "postern_nic_size",
            "postern_nic_take_bells"
        ]
    );
    for section in elf.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            panic!("not ELF");
        };
        let loaded = sh_flags.contains(object::elf::SHF_ALLOC);
        let writable = sh_flags.contains(object::elf::SHF_WRITE);
        assert!(!(loaded && writable), "{}", section.name().unwrap());
    }
}

#[test]
fn the_image_is_accepted() {
    let image = Image::parse(image()).unwrap();
    assert_eq!(image.rodata.gva, IMAGE_GVA);
    assert!(image.text.pages().contains(&image.entry));
    assert!(!image.text.bytes.is_empty());
}

/// Offset in a file of the program header with these flags.
fn program_header(file: &[u8], flags: u32) -> usize {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let first = u64::from_le_bytes(file[32..40].try_into().unwrap()) as usize;
    let mut headers = (0..2).map(|number| first + number * 56);
    headers.find(|at| word(at + 4) == flags).expect("a segment")
}

#[test]
fn a_spoiled_image_is_refused_by_name() {
    let good = image();
    let (rodata, text) = (program_header(good, 4), program_header(good, 5));
    let content = u64::from_le_bytes(good[rodata + 8..rodata + 16].try_into().unwrap()) as usize;
    type Check = fn(&ImageError) -> bool;
    let cases: [(usize, &[u8], Check); 12] = [
        (0, b"\x7fELG", |e| matches!(e, ImageError::Elf(_))),
        (4, &[1], |e| matches!(e, ImageError::Elf(_))), // 32-bit
        (16, &[3], |e| matches!(e, ImageError::Kind)),  // relocatable
        (18, &[0xb7], |e| matches!(e, ImageError::Kind)), // AArch64
        (24, &[0; 8], |e| matches!(e, ImageError::Entry(0))),
        (text + 4, &[7], |e| matches!(e, ImageError::Segment { .. })), // writable code
        (rodata + 4, &[6], |e| {
            matches!(e, ImageError::Segment { .. })
        }), // writable data
        (rodata + 4, &[5], |e| {
            matches!(e, ImageError::Segments { data: 0, code: 2 })
        }),
        (text + 16, &[0xff], |e| {
            matches!(e, ImageError::Segment { .. })
        }), // not on a page
        (text + 40, &[0xff, 0xff, 0xff], |e| {
            matches!(e, ImageError::Segment { .. })
        }), // memory size
        (content, b"X", |e| matches!(e, ImageError::Header)),
        (content + 8, &[0xff; 4], |e| {
            matches!(e, ImageError::Version(u32::MAX))
        }),
    ];
    assert_eq!(std::mem::offset_of!(ImageHeader, abi_version), 8);
    for (at, bytes, expected) in cases {
        let mut file = good.to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let error = Image::parse(&file).unwrap_err();
        assert!(expected(&error), "{at:#x}: {error:?}");
    }
}

#[test]
fn a_truncated_image_is_refused() {
    let good = image();
    let text = program_header(good, 5);
    let word = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().unwrap()) as usize;
    let end = word(text + 8) + word(text + 32);
    for length in (0..end).step_by(7).chain([end - 1]) {
        assert!(Image::parse(&good[..length]).is_err(), "{length}");
    }
    assert!(Image::parse(&good[..end]).is_ok(), "symbols are not needed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_changed_image_is_refused_or_harmless(at in 0usize..176, value: u8, at2 in 0usize..176, value2: u8) {
        let mut file = image().to_vec();
        file[at] = value;
        file[at2] = value2;
        if let Ok(image) = Image::parse(&file) {
            let end = IMAGE_GVA + postern_abi::view::MAX_IMAGE_SIZE;
            for pages in [image.rodata.pages(), image.text.pages()] {
                prop_assert!(pages.start >= IMAGE_GVA && pages.end <= end && pages.start % 4096 == 0);
            }
            prop_assert!(image.text.pages().contains(&image.entry));
        }
    }
}

/// On a machine without the patched KVM, a client is told so, and other paths work.
#[test]
fn a_path_that_needs_views_on_a_machine_without() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("image");
    fs::write(&file, image()).unwrap();
    let mut options = ServerOptions::new(
        directory.path().join("nic"),
        common::geometry(2, 1, common::SMALL, common::SMALL),
    );
    options.image = Some(file);
    let mut server = Server::bind(&options).unwrap();
    if server.missing_paths().next().is_none() {
        println!("SKIP: this machine has views");
        return;
    }
    let stopper = server.stopper();
    let thread = std::thread::spawn(move || server.run(|_| ()).unwrap());
    for path in postern_abi::platform::CallPath::ALL {
        use postern_abi::platform::CallPath::{Direct, ExitUser};
        match request::port(&options.socket, 0, path) {
            Ok(_) => assert!(matches!(path, ExitUser | Direct)),
            Err(ClientError::Refused {
                status: Status::NoViews,
                text,
                ..
            }) => {
                assert!(!matches!(path, ExitUser | Direct));
                assert!(text.contains("needs EPT views: "), "{text}");
                assert!(
                    text.contains("kernel-patches/build.sh") || text.contains("/dev/kvm"),
                    "{text}"
                );
            }
            Err(error) => panic!("{path:?}: {error}"),
        }
    }
    stopper.stop();
    thread.join().unwrap();
}
