#!/usr/bin/env python3
"""Writes the first inputs of each fuzz target to corpus/TARGET; what the fuzzer finds is added by hand."""
import json
import re
import struct
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
ABI = Path(__file__).parents[2] / "guest-lib/abi/src"


def constant(module, name):
    """The value of a constant of the crate postern-abi: arithmetic, or eight letters as a number."""
    source = (ABI / f"{module}.rs").read_text()
    value = re.search(rf"pub const {name}: \w+ = (.*?);", source).group(1)
    text = re.fullmatch(r'u(?:32|64)::from_le_bytes\(\*b"(.*)"\)', value)
    return int.from_bytes(text.group(1).encode(), "little") if text else eval(value)


ABI_VERSION = constant("lib", "ABI_VERSION")


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def policy(vlan=0, acl=0, source=0, mirror=0, ingress=0, egress=0, isolation=0, reserved=0):
    """The choice of a policy, of the parts in src/policies.rs."""
    parts = (vlan, acl, source, mirror, ingress, egress, isolation, reserved)
    return sum(part << (row * 2) for row, part in enumerate(parts))


def ring():
    def frame(length, to, payload=b"payload.", port=0, tags=0, tci=b""):
        step = 3 | (port & 1) << 4 | (port & 2) << 5
        return struct.pack("<BHBB", step, length, to, tags) + tci + payload.ljust(64, b".")

    def call(port=0, hold=0):
        return bytes([5 | (port & 1) << 4 | (port & 2) << 5, 0xF8 | hold])

    def host(kind, data=b"", port=0):
        return bytes([8, kind | port << 4]) + data

    def set_policy(port, **parts):
        return host(2, struct.pack("<H", policy(**parts)), port)

    broadcast, reserved, drain, turn = 0x20, 0x30, bytes([10, 255]), host(0)
    for config in range(8):
        plain = frame(60, 2) + frame(1500, 2) + frame(64, broadcast) + call() + drain
        write("ring", f"plain-{config}", bytes([config]) + plain * 3)
    full = b"".join(frame(1500, 2) + call(hold=1) for _ in range(6))
    write("ring", "full", b"\0" + full + drain + full)
    words = b"".join(bytes([2, kind]) + struct.pack("<Hh", 1, 33) for kind in range(8))
    write("ring", "moved-words", b"\0" + frame(60, 1) + words + call() + frame(60, 2) + call() + drain)
    wild = b"".join(bytes([1, kind]) + struct.pack("<HI", 0, 0xFFFFFFF0) for kind in range(4))
    write("ring", "wild-words", b"\0" + wild + call() + frame(60, 2) + call())
    send = frame(60, 2) + call()
    tenants = send + bytes([14]) + send + drain + bytes([13]) + send
    write("ring", "tenants", b"\0" + tenants + bytes([15]) + tenants)
    # A large segment, to one port and to all, which is cut into more frames than a call has.
    packet = b"\x08\0" + ipv4(6, tcp(bytes(1900)))[:62]
    for size in (1, 500):
        first = 1954 | 1 << 32 | 1 << 40
        large = struct.pack("<BQQ", 4, first, size | 34 << 16 | 16 << 32)
        large = b"".join(large + bytes([to, 0]) + packet + call(hold=1) for to in (2, broadcast))
        for config in (0, 0x1A, 0x7B):
            mirrors = set_policy(0, mirror=2) + set_policy(1, egress=1)
            steps = bytes([12, 15]) + (large + drain + call()) * 2 + mirrors + large + call() + drain + call()
            write("ring", f"segments-{size}-{config:x}", bytes([config]) + steps)
    unfinished = struct.pack("<BQQBB", 4, 100 | 1 << 32, 34 << 16 | 16 << 32, 2, 0)
    write("ring", "checksum", b"\0" + bytes([12, 15]) + unfinished + packet + call() + drain)
    # Port 1 to both RX queues of eight others, of which two share a place among the lanes of a call.
    flows = (b"\x08\0" + ipv4(17, udp(bytes(20), port)) for port in range(8))
    flows = b"".join(frame(64, broadcast | 4, flow, port=1) for flow in flows)
    write("ring", "many-lanes", b"\x7f" + flows + call(1) + drain + flows + call(1))
    write("ring", "requests", b"\0" + bytes([9, 1, 9]) + struct.pack("<QQ", 2**64 - 1, 2**64 - 1))
    # Four or eight senders, and one or two lanes at each queue.
    for config in (0x18, 0x19, 0x28, 0x29):
        burst = b"".join(frame(60, 2 | port << 2, port=port) + call(port) for port in range(4))
        write("ring", f"turns-{config:x}", bytes([config]) + (burst + turn + drain + turn) * 3)
    stopped = host(7) + host(7 | 1 << 3) + turn * 3
    write("ring", "stopped", b"\x10" + send + stopped + frame(60, 6, port=1) + call(1) + turn + send + drain)
    # Tags: a VLAN in priority 3, one behind a priority tag, and a service tag.
    tagged = b"".join(
        frame(100, to, tags=tags, tci=tci) + call() + drain
        for to in (2, broadcast)
        for tags, tci in ((0, b""), (1, b"\x60"), (2, b"\0\7"), (3, b"\0\0\7"), (4, b"\0"), (6, b"\0\5\0"))
    )
    for vlans in ((1, 1, 1), (1, 2, 1), (2, 2, 3), (0, 1, 2)):
        members = b"".join(set_policy(port, vlan=vlan) for port, vlan in enumerate(vlans))
        write("ring", "vlans-" + "".join(map(str, vlans)), b"\0" + members + tagged)
    numbers = b"".join(frame(60, reserved, tags=number << 3) + call() for number in (0, 1, 2, 14, 15))
    relayed = b"".join(numbers + drain + set_policy(0, reserved=choice) for choice in (1, 2, 0))
    write("ring", "reserved", b"\0" + relayed)
    for limit in ("ingress", "egress"):
        later = host(4, struct.pack("<I", 10**9)) + send * 4 + drain
        write("ring", limit, b"\0" + set_policy(2 if limit == "egress" else 0, **{limit: 1}) + (send * 4 + later) * 3)
    for lanes in (0, 0x10):
        mirrors = set_policy(0, mirror=3) + set_policy(1, mirror=3)
        write("ring", f"mirrors-{lanes:x}", bytes([lanes]) + mirrors + (frame(60, 1) + send + full) * 2 + drain)
    roles = set_policy(0, isolation=2, source=1) + set_policy(1, isolation=1) + set_policy(2, isolation=2, acl=1)
    write("ring", "isolation", b"\1" + roles + (send + frame(60, broadcast) + call() + drain) * 2)
    aged = host(6, b"\1\5", 2) + b"".join(host(5, bytes([tick])) + send for tick in (0, 10, 20, 30))
    write("ring", "stations", b"\0" + set_policy(0, vlan=2) + aged + drain)


def ethernet(payload, ethertype, tags=b""):
    return bytes([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0]) + tags + struct.pack(">H", ethertype) + payload


def ipv4(protocol, payload):
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    return head + bytes([10, 0, 0, 1, 192, 168, 0, 1]) + payload


def ipv6(protocol, payload):
    head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
    return head + bytes([0xFD] + [0] * 14 + [1]) + bytes([0xFD] + [0] * 14 + [2]) + payload


def tcp(payload, port=22):
    return struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 0x18, 1000, 0, 0) + payload


def udp(payload, port=4000):
    return struct.pack(">HHHH", 53, port, 8 + len(payload), 0) + payload


def descriptor():
    def record(features, policies, frame, flags=0, gso=0, size=0, start=0, offset=0):
        first = len(frame) & ~1 | flags << 32 | gso << 40
        return struct.pack("<B3HQQ", features, *policies, first, size | start << 16 | offset << 32) + frame

    four, six = ethernet(ipv4(6, tcp(bytes(4000))), 0x800), ethernet(ipv6(6, tcp(bytes(3000))), 0x86DD)
    datagrams = ethernet(ipv4(17, udp(bytes(3000))), 0x800)
    tagged = ethernet(ipv4(17, udp(bytes(40))), 0x800, bytes([0x81, 0, 0, 5]))
    none = (0, 0, 0)
    policies = {
        "none": none,
        "access": [policy(vlan=1)] * 3,
        "trunk": (policy(vlan=1), policy(vlan=2), policy(vlan=3)),
        "untag": (policy(vlan=2), policy(vlan=1), policy(vlan=2)),
        "acl": (policy(acl=1), policy(acl=2), policy(acl=3)),
        "mirror": (policy(mirror=3), policy(mirror=3), 0),
        "own-mirror": (policy(mirror=2), policy(mirror=3), policy(mirror=3)),
        "limit": (policy(ingress=1), policy(egress=2), policy(egress=1)),
        "large": (policy(ingress=3, vlan=1), policy(egress=3, vlan=2), policy(mirror=1, vlan=2)),
        "apart": (policy(isolation=2, source=1), policy(isolation=1), policy(isolation=2)),
    }
    for name, choice in policies.items():
        write("descriptor", f"tso4-{name}", record(0x1F, choice, four, 1, 1, 1000, 34, 16))
        write("descriptor", f"tagged-{name}", record(0, choice, tagged))
    write("descriptor", "tso6", record(0xFF, none, six, 1, 4, 1000, 54, 16))
    write("descriptor", "uso", record(0x0F, policies["limit"], datagrams, 1, 5, 700, 34, 6))
    write("descriptor", "checksum", record(0x01, policies["acl"], four[:200], 1, 0, 0, 34, 16))
    write("descriptor", "wild", record(0x0F, none, four, 255, 255, 65535, 65535, 65535))
    lldp = bytes([0x01, 0x80, 0xC2, 0, 0, 0x0E]) + ethernet(bytes(50), 0x88CC)[6:]
    write("descriptor", "reserved", record(0, (policy(reserved=1), 0, 0), lldp))
    snap = ethernet(b"\xaa\xaa\3\0\0\0\x08\0" + ipv4(6, tcp(b"x")), 52)
    write("descriptor", "snap", record(0, policies["acl"], snap))


def acl():
    rules = [
        "deny in ipv4 10.0.0.0/8 tcp dport 22",
        "permit from 02:00:00:00:00:00/ff:ff:ff:ff:ff:00 vlan 5",
        "deny ipv6 fd00::/8 any udp sport 53-99\npermit arp",
        "deny ethertype 0x88cc\ndeny fragment\npermit proto 47",
        "permit out to ff:ff:ff:ff:ff:ff\ndeny sctp dport 1-65535",
        "deny nonsense\npermit src 10.0.0.1/8\ndeny",
    ]
    frames = [
        ethernet(ipv4(6, tcp(b"x")), 0x800),
        ethernet(ipv6(17, udp(b"x")), 0x86DD),
        ethernet(ipv4(6, b"x"), 0x800, bytes([0x81, 0, 0, 5])),
        ethernet(bytes(28), 0x806),
        ethernet(ipv6(0, bytes([43, 200]) + bytes(6)), 0x86DD),
        ethernet(b"", 0x800),
    ]
    for number, (text, frame) in enumerate(zip(rules, frames)):
        text = text.encode()
        write("acl", f"rules-{number}", struct.pack("<H", len(text)) + text + frame)


def capture():
    frame = ethernet(ipv4(17, udp(b"x" * 20)), 0x800)
    for name, magic, order in (("micro", 0xA1B2C3D4, "<"), ("nano", 0xA1B23C4D, ">")):
        head = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65535, 1)
        packet = struct.pack(order + "IIII", 1, 2, len(frame), len(frame)) + frame
        write("capture", f"pcap-{name}", head + packet * 2)
        write("capture", f"pcap-{name}-cut", (head + packet * 2)[:-7])

    def block(kind, body):
        body = body.ljust((len(body) + 3) // 4 * 4, b"\0")
        return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)

    section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    interface = block(1, struct.pack("<HHI", 1, 0, 0) + struct.pack("<HHBxxxHH", 9, 1, 9, 0, 0))
    packet = block(6, struct.pack("<IIIII", 0, 0, 5, len(frame), len(frame)) + frame)
    simple = block(3, struct.pack("<I", len(frame)) + frame)
    write("capture", "pcapng", section + interface + packet + simple)
    write("capture", "pcapng-no-interface", section + packet)
    write("capture", "pcapng-two-sections", (section + interface + packet) * 2)
    # Text in no encoding, the length of an FCS, and no end of options; the flags of a packet.
    options = struct.pack("<HH4s", 1, 2, b"\xff\xfe\0\0") + struct.pack("<HHBxxx", 13, 1, 4)
    interface = block(1, struct.pack("<HHI", 1, 0, 0) + options)
    padded = (frame + b"FCS!").ljust((len(frame) + 7) // 4 * 4, b"\0")
    sizes = (len(frame) + 4, len(frame) + 4)
    flags = struct.pack("<HHI", 2, 4, 4 << 5)
    packet = block(6, struct.pack("<IIIII", 0, 0, 5, *sizes) + padded + flags)
    old = block(2, struct.pack("<HHIIII", 0, 0, 0, 5, *sizes) + padded)
    write("capture", "pcapng-options", section + interface + packet + old)
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 2 << 28 | 1 << 26 | 1)
    packet = struct.pack("<IIII", 1, 2, *sizes) + frame + b"FCS!"
    write("capture", "pcap-fcs", head + packet * 2)


def control():
    def request(kind, port, path):
        return b"\0" + b"PSTNNICQ" + struct.pack("<IIIIQ", ABI_VERSION, kind, port, path, 0)

    for path in range(5):
        write("control", f"attach-{path}", request(1, 3, path))
    write("control", "counters", request(2, 0, 0))
    reply = b"PSTNNICA" + struct.pack("<III", ABI_VERSION, 3, 0) + bytes(104)
    write("control", "refused", b"\1" + reply + "why not, äöü".encode())
    policy = {
        "source": "02:00:00:00:00:01",
        "vlan": {"trunk": {"pvid": 5, "members": [7, 9], "untagged": [9]}},
        "ingress": {"bits_per_second": 1000000, "burst_bytes": 100000},
        "acl": {"rules": [{"action": "deny", "protocol": 6, "destination_ports": "22"}], "default": "permit"},
        "mirror": 2,
        "isolation": {"community": 3},
        "blocked": [1],
    }
    write("control", "policy", b"\2" + json.dumps(policy).encode())
    write("control", "policies", b"\3" + json.dumps({"0": policy, "1": {"isolation": "isolated"}}).encode())
    write("control", "policies-bad", b"\3" + json.dumps({"9": policy}).encode())


def image():
    gva, magic = constant("view", "IMAGE_GVA"), constant("view", "MAGIC").to_bytes(8, "little")
    data = magic + struct.pack("<II", ABI_VERSION, 0) + bytes(48)
    head = lambda entry, count: (
        b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, count, 64, 0, 0)
    )
    load = lambda flags, offset, at, size: struct.pack("<IIQQQQQQ", 1, flags, offset, at, at, size, size, 4096)
    headers = load(4, 176, gva, 64) + load(5, 240, gva + 4096, 16)
    good = head(gva + 4096, 2) + headers + data + b"\xc3" * 16
    write("image", "good", good)
    write("image", "cut", good[:-8])
    write("image", "one-segment", head(gva + 4096, 1) + headers + data)
    write("image", "entry-outside", head(gva, 2) + headers + data + b"\xc3" * 16)
    write("image", "writable", good[:68] + b"\6" + good[69:])


for target in (ring, descriptor, acl, capture, control, image):
    target()
