#!/usr/bin/env python3
"""Writes the first inputs of each fuzz target to corpus/TARGET; what the fuzzer finds is added by hand."""
import struct
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


NEXT, WRITE, INDIRECT = 1, 2, 4


def blk():
    def descriptor(index, gpa, len, flags=0, follows=0):
        place = bytes([4 | gpa >> 16]) + struct.pack("<H", gpa & 0xFFFF)
        size = bytes([0xFF]) + struct.pack("<I", len)
        return bytes([0]) + struct.pack("<H", index) + place + size + bytes([flags, follows])

    def available(at, head):
        return bytes([1, at, head])

    def header(kind, sector, high=0, at=0x4000):
        return bytes([3]) + struct.pack("<H", at) + bytes([kind, sector, high])

    def memory(at, data):
        return bytes([4]) + struct.pack("<H", at) + bytes([len(data)]) + data

    def index(count):
        return bytes([2, count])

    serve = bytes([5])

    def chain(data, kind):
        """Header, data and status in descriptors 0, 1 and 2."""
        flags = NEXT | (WRITE if kind in (0, 8) else 0)
        return (
            descriptor(0, 0x4000, 16, NEXT, 1)
            + descriptor(1, 0x5000, data, flags, 2)
            + descriptor(2, 0x6000, 1, WRITE)
        )

    def one(kind, sector, data=512, high=0):
        return chain(data, kind) + header(kind, sector, high) + available(0, 0) + index(1) + serve

    for choice in (0, 1, 8, 16, 6):
        for kind, name in ((0, "in"), (1, "out"), (4, "flush"), (8, "id"), (11, "discard"), (13, "zeroes")):
            data = {4: 0, 8: 20, 11: 16, 13: 16}.get(kind, 1024)
            ranges = memory(0x5000, struct.pack("<QII", 3, 4, 0))
            write("blk", f"{name}-{choice}", bytes([choice]) + ranges + one(kind, 5, data))
    write("blk", "beyond", b"\0" + one(0, 31, 1024) + one(1, 255, 512, 255))
    write("blk", "odd", b"\0" + one(0, 1, 511) + one(1, 1, 3))
    write("blk", "circle", b"\0" + descriptor(0, 0x4000, 16, NEXT, 0) + available(0, 0) + index(1) + serve)
    write("blk", "outside", b"\0" + chain(512, 0) + descriptor(1, 0x1FFF0, 512, NEXT | WRITE, 2) + available(0, 0) + index(1) + serve)
    write("blk", "across-the-hole", b"\0" + chain(512, 0) + descriptor(1, 0xFFF0, 512, NEXT | WRITE, 2) + available(0, 0) + index(1) + serve)
    write("blk", "no-status", b"\0" + descriptor(0, 0x4000, 16) + available(0, 0) + index(1) + serve)
    write("blk", "ahead", b"\0" + index(200) + serve)
    write("blk", "no-head", b"\0" + available(0, 255) + index(1) + serve)
    into_rings = descriptor(1, 0x2000, 512, NEXT | WRITE, 2) + descriptor(2, 0x3001, 1, WRITE)
    write("blk", "into-the-rings", b"\0" + chain(512, 0) + into_rings + header(0, 1) + available(0, 0) + index(1) + serve * 3)
    table = struct.pack("<QIHH", 0x4000, 16, NEXT, 1) + struct.pack("<QIHH", 0x5000, 512, NEXT | WRITE, 2)
    table += struct.pack("<QIHH", 0x6000, 1, WRITE, 0)
    for name, size in (("indirect", 48), ("indirect-cut", 47), ("indirect-empty", 0)):
        steps = memory(0x7000, table) + descriptor(0, 0x7000, size, INDIRECT) + header(0, 2)
        write("blk", name, b"\0" + steps + available(0, 0) + index(1) + serve)
    nested = struct.pack("<QIHH", 0x7000, 16, INDIRECT, 0)
    write("blk", "indirect-nested", b"\0" + memory(0x7000, nested) + descriptor(0, 0x7000, 16, INDIRECT) + available(0, 0) + index(1) + serve)
    many = chain(512, 0) + header(0, 3) + b"".join(available(n, 0) for n in range(8)) + index(8) + serve
    write("blk", "many", b"\0" + many)
    write("blk", "many-with-events", b"\x08" + many)


def net():
    RX, TX, COMMANDS = 0, 1, 2

    def step(queue, kind):
        base = queue << 4
        return bytes([base + (kind - base) % 6])

    def descriptor(queue, index, gpa, len, flags=0, follows=0):
        place = bytes([4 | gpa >> 16]) + struct.pack("<H", gpa & 0xFFFF)
        size = bytes([0xFF]) + struct.pack("<I", len)
        return step(queue, 0) + bytes([index]) + place + size + bytes([flags, follows])

    def available(queue, at, head):
        return step(queue, 1) + bytes([at, head])

    def index(queue, count):
        return step(queue, 2) + bytes([count])

    def memory(at, data):
        return step(0, 3) + struct.pack("<H", at) + bytes([len(data)]) + data

    def frame(size):
        return step(0, 4) + b"\x55" + struct.pack("<H", size)

    serve = step(0, 5)

    def one(queue, *chain):
        steps = b"".join(
            descriptor(queue, n, gpa, size, flags | (NEXT if n + 1 < len(chain) else 0), n + 1)
            for n, (gpa, size, flags) in enumerate(chain)
        )
        return steps + available(queue, 0, 0) + index(queue, 1)

    for choice in range(4):
        start = bytes([choice])
        write("net", f"send-{choice}", start + one(TX, (0x4000, 12, 0), (0x5000, 60, 0)) + serve)
        write("net", f"receive-{choice}", start + one(RX, (0x6000, 1536, WRITE)) + frame(72) + frame(72) + serve)
        many = b"".join(descriptor(RX, n, 0x6000 + 0x400 * n, 0x400, WRITE) + available(RX, n, n) for n in range(8))
        write("net", f"merge-{choice}", start + many + frame(5000) + index(RX, 8) + serve + frame(60000) + serve)
    command = memory(0x4000, bytes([4, 0, 2, 0]))
    write("net", "command", b"\0" + command + one(COMMANDS, (0x4000, 2, 0), (0x4002, 2, 0), (0x7000, 1, WRITE)) + serve)
    write("net", "no-answer", b"\0" + command + one(COMMANDS, (0x4000, 4, 0)) + serve)
    write("net", "long-command", b"\0" + one(COMMANDS, (0x20000, 0x8000, 0), (0, 0xF000, 0), (0x7000, 1, WRITE)) + serve)
    write("net", "short", b"\0" + one(TX, (0x4000, 11, 0)) + serve)
    write("net", "wrong-way", b"\0" + one(TX, (0x4000, 60, WRITE)) + serve)
    write("net", "outside", b"\0" + one(RX, (0x1FFF0, 512, WRITE)) + frame(60) + serve)
    write("net", "into-the-rings", b"\0" + one(RX, (0x1000, 4096, WRITE)) + frame(2000) + serve * 3)
    write("net", "ahead", b"\0" + index(TX, 200) + serve)
    write("net", "circle", b"\0" + descriptor(TX, 0, 0x4000, 60, NEXT, 0) + available(TX, 0, 0) + index(TX, 1) + serve)


def pci():
    ECAM, REGISTERS, MSIX, MEMORY, ANY, PORTS = 0, 3, 4, 5, 6, 7

    def access(kind, place, width, value, write=1, address=b""):
        head = bytes([kind << 1 | write, width - 1]) + struct.pack("<H", place)
        return head + address + (struct.pack("<I", value) if kind == PORTS else struct.pack("<Q", value))

    def config(offset, width, value, device=1):
        return access(ECAM, device << 12 | offset, width, value)

    sizing = b"".join(config(0x10 + 4 * bar, 4, 0xFFFFFFFF) + access(ECAM, 0x1010 + 4 * bar, 4, 0, 0) for bar in range(6))
    write("pci", "sizing", sizing)
    moves = b"".join(config(4, 2, on) + config(0x10, 4, gpa) for gpa in (0, 0xC0000000, 0xFEC00000, 0xFFFFFFF0) for on in (0, 2))
    write("pci", "moves", moves + access(REGISTERS, 16, 4, 3))
    high = b"".join(config(0x18, 4, low) + config(0x1C, 4, up) + config(4, 2, 7) for low in (0, 0xFFFFE000) for up in (0, 1, 0x7F, 0xFFFFFFFF))
    write("pci", "moves-memory", high)
    table = b"".join(access(MSIX, 16 * n + at, 4, value) for n in range(4) for at, value in ((0, 0xFEE00000), (4, n), (8, 0x4021), (12, 0)))
    for offset in range(0x40, 0x80, 4):
        table += config(offset + 2, 2, 0x8000)
    write("pci", "msix", table + b"".join(access(REGISTERS, 0, 1, n << 1) for n in range(5)) + access(MSIX, 0x800, 8, 0, 0))
    intx = access(REGISTERS, 4, 2, 1) + config(4, 2, 0x402) + access(REGISTERS, 4, 2, 1) + config(4, 2, 2)
    write("pci", "intx", intx)
    ports = b"".join(access(PORTS, at, 3, value, on) for at, value, on in ((0, 0x80000810, 1), (4, 0xFFFFFFFF, 1), (4, 0, 0), (7, 0, 0), (0, 0x8000FFFC, 1), (4, 1, 1)))
    write("pci", "ports", ports)
    wild = b"".join(access(ANY, 0, width, 2**64 - 1, on, struct.pack("<Q", gpa)) for width in (1, 3, 8) for on in (0, 1) for gpa in (0, 0xFE0FFFFC, 0xFDFFFFFF, 2**64 - 1))
    write("pci", "wild", wild)
    write("pci", "every-byte", b"".join(config(offset, 1, 0xFF) for offset in range(256)))
    write("pci", "other-devices", b"".join(config(offset, 4, 2**32 - 1, device) for device in range(3) for offset in (0, 4, 16)))


def virtio():
    for device in (0, 0x80):
        name = ("disk", "entropy")[device >> 7]

        def start(choice=0):
            return bytes([device, choice])

        def register(offset, value, width=2):
            return bytes([device | 1 | width << 3, offset]) + struct.pack("<I", value)

        notify, reset = bytes([device | 2, 0]), bytes([device | 7])

        def descriptor(index, gpa, len, flags, follows, available=0):
            return bytes([6, index]) + struct.pack("<HHBBB", gpa, len, flags, follows, available)

        def memory(at, data):
            return bytes([5]) + struct.pack("<H", at) + bytes([len(data)]) + data

        if device:
            chain = descriptor(0, 0x5000, 64, WRITE, 0, 1)
        else:
            chain = memory(0x4000, struct.pack("<IIQ", 0, 0, 2)) + descriptor(0, 0x4000, 16, NEXT, 1)
            chain += descriptor(1, 0x5000, 512, NEXT | WRITE, 2) + descriptor(2, 0x6000, 1, WRITE, 0, 1)
        for choice in (0, 0x10, 0x20, 0x30):
            write("virtio", f"{name}-{choice}", start(choice) + chain + notify + bytes([device | 4, 0, 0x10]) + reset)
        write("virtio", f"{name}-again", (start() + chain + notify) * 8)
        write("virtio", f"{name}-broken", (start() + descriptor(0, 0x5000, 64, NEXT, 0, 1) + notify) * 40)
        write("virtio", f"{name}-no-features", register(20, 3, 0) + register(20, 15, 0) + notify)
        nowhere = register(32, 0xFFFFFFF0) + register(36, 0xFFFFFFFF) + register(28, 1, 1) + register(20, 15, 0)
        write("virtio", f"{name}-nowhere", start() + reset + register(20, 11, 0) + nowhere + notify)
        write("virtio", f"{name}-registers", b"".join(register(at, 0xFFFFFFFF) + bytes([device | 4, at, 0]) for at in range(56)))
        write("virtio", f"{name}-configuration", bytes([device | 3, 0, device | 3, 255]) + start() + notify + chain + notify)


def power():
    SLEEP, RESET, KEYBOARD, PANIC, NEAR, ANY = 0, 1, 2, 3, 4, 7

    def access(kind, value, wide=0, write=1, near=3, port=b""):
        return bytes([kind << 3 | wide << 1 | write, near]) + port + struct.pack("<I", value)

    for kind, name in ((SLEEP, "sleep"), (RESET, "reset"), (KEYBOARD, "keyboard"), (PANIC, "panic")):
        every = b"".join(access(kind, value) + access(kind, 0, write=0) for value in range(256))
        write("power", name, every)
        write("power", f"{name}-wide", b"".join(access(kind, 0x34FE0634, wide, on) for wide in (2, 3) for on in (0, 1)))
    beside = (access(NEAR + kind, value, write=on, near=near) for kind in range(3) for near in range(8) for value in (0x34, 6, 0xFE) for on in (0, 1))
    write("power", "beside", b"".join(beside))
    write("power", "anywhere", b"".join(access(ANY, 0x34, on, port=struct.pack("<H", port)) for port in (0, 0xFFFF, 0x601, 0xCF8, 0xCFA) for on in (0, 1)))


def serial():
    DATA, IER, LCR, MCR, LSR, SCRATCH = 0, 1, 3, 4, 5, 7

    def out(register, value, wide=0):
        return bytes([register | wide << 3]) + struct.pack("<Q", value)

    def read(register, wide=0):
        return bytes([3 << 5 | register | wide << 3])

    def typed(text):
        return bytes([6 << 5, len(text)]) + text

    reset = bytes([7 << 5])
    ready = out(MCR, 0x0B) + out(IER, 1)
    hello = b"".join(out(DATA, byte) for byte in b"hello\n")
    write("serial", "sent", hello + out(DATA, 0x6F6C6C6568, 3) + read(LSR))
    write("serial", "typed", typed(b"early") + ready + typed(b"hello") + (read(LSR) + read(2) + read(DATA)) * 6)
    write("serial", "full", ready + typed(b"x" * 255) + typed(b"more") + read(DATA) * 3 + typed(b"more"))
    write("serial", "loop", out(MCR, 0x1B) + hello + typed(b"no") + read(DATA) * 7 + out(DATA, 0x4142434445464748, 3) * 9 + read(LSR))
    write("serial", "divisor", out(LCR, 0x83) + out(DATA, 1) + out(IER, 1) + typed(b"no") + read(DATA) + read(IER) + out(LCR, 3) + read(DATA))
    write("serial", "reset", ready + typed(b"x" * 100) + reset + read(LSR) + typed(b"no") + b"".join(read(at) for at in range(8)))
    write("serial", "reset-divisor", ready + typed(b"x") + out(LCR, 0x83) + reset + read(LSR))
    every = b"".join(out(at, value) + read(at) for at in range(8) for value in (0, 0xFF, 0x55))
    write("serial", "every-register", every + reset + every)
    write("serial", "wide", b"".join(out(at, 2**64 - 1, wide) + read(at, wide) for at in range(8) for wide in range(4)))


blk()
net()
pci()
power()
serial()
virtio()
