//! The control queue (virtio 1.2, "Network Device", "Control Virtqueue").
#![deny(unsafe_code)]

use virtio_bindings::virtio_net as net;
use vm_memory::{Bytes, GuestMemoryMmap};

use super::fault::Fault;
use super::ring::Ring;

/// The longest command in bytes that is looked at: a table of some 10000 addresses. A longer one is
/// refused.
const LONGEST: usize = 64 << 10;

/// Commands that are answered before others get their turn.
const BURST: usize = 16;

/// Size of the two numbers that a command begins with: class and command.
const HEADER: usize = 2;

/// Size of a MAC address in bytes.
const MAC: usize = 6;

/// What commands change. Each says whether that was done.
pub trait Commands {
    /// Receive and transmit by the first `pairs` queue pairs; never 0.
    fn set_pairs(&mut self, pairs: u16) -> bool;
    /// Have another MAC address.
    fn set_mac(&mut self, mac: [u8; 6]) -> bool;
    /// Give the driver only these kinds of unfinished frames: feature bits.
    fn set_offloads(&mut self, features: u64) -> bool;
}

/// Answers commands; whether there may be more.
pub fn burst(
    ring: &mut Ring,
    memory: &GuestMemoryMmap,
    commands: &mut dyn Commands,
) -> Result<bool, Fault> {
    ring.disable_kicks()?;
    for _ in 0..BURST {
        let (mut command, mut answer, mut cut) = (Vec::new(), None, false);
        let head = ring.pop(|descriptor| {
            let len = descriptor.len() as usize;
            if descriptor.is_write_only() {
                answer = answer.or((len > 0).then_some(descriptor.addr()));
            } else if answer.is_some() {
                return Err(Fault::WrongWay);
            } else if command.len() + len > LONGEST {
                cut = true;
            } else {
                let start = command.len();
                command.resize(start + len, 0);
                memory.read_slice(&mut command[start..], descriptor.addr())?;
            }
            Ok(())
        })?;
        let Some(head) = head else {
            if !ring.enable_kicks()? {
                return Ok(false);
            }
            ring.disable_kicks()?;
            continue;
        };
        let answer = answer.ok_or(Fault::NoAnswer)?;
        let done = !cut && execute(&command, commands);
        let code = if done {
            net::VIRTIO_NET_OK
        } else {
            net::VIRTIO_NET_ERR
        };
        memory.write_obj(code as u8, answer)?;
        ring.push_used(head, 1)?;
        ring.publish()?;
    }
    Ok(true)
}

/// Does what a command says; whether it was done.
fn execute(command: &[u8], commands: &mut dyn Commands) -> bool {
    let Some((&[class, what], data)) = command.split_first_chunk::<HEADER>() else {
        return false;
    };
    match (u32::from(class), u32::from(what)) {
        // Every frame that the TAP gives is passed on: modes that ask for fewer are a matter of the
        // driver's (filtering is best effort, "Packet Receive Filtering").
        (net::VIRTIO_NET_CTRL_RX, net::VIRTIO_NET_CTRL_RX_PROMISC)
        | (net::VIRTIO_NET_CTRL_RX, net::VIRTIO_NET_CTRL_RX_ALLMULTI) => {
            matches!(data, [0 | 1])
        }
        (net::VIRTIO_NET_CTRL_MAC, net::VIRTIO_NET_CTRL_MAC_TABLE_SET) => is_table(data),
        (net::VIRTIO_NET_CTRL_MAC, net::VIRTIO_NET_CTRL_MAC_ADDR_SET) => {
            <[u8; MAC]>::try_from(data).is_ok_and(|mac| mac[0] & 1 == 0 && commands.set_mac(mac))
        }
        (net::VIRTIO_NET_CTRL_MQ, net::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => {
            <[u8; 2]>::try_from(data).is_ok_and(|bytes| {
                let pairs = u16::from_le_bytes(bytes);
                pairs != 0 && commands.set_pairs(pairs)
            })
        }
        (net::VIRTIO_NET_CTRL_GUEST_OFFLOADS, net::VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) => {
            <[u8; 8]>::try_from(data)
                .is_ok_and(|bytes| commands.set_offloads(u64::from_le_bytes(bytes)))
        }
        _ => false,
    }
}

/// Whether these are the two tables of addresses that a `struct virtio_net_ctrl_mac` holds.
fn is_table(mut data: &[u8]) -> bool {
    for _ in 0..2 {
        let Some((&count, rest)) = data.split_first_chunk() else {
            return false;
        };
        let size = (u32::from_le_bytes(count) as usize).checked_mul(MAC);
        let Some(rest) = size.and_then(|size| rest.get(size..)) else {
            return false;
        };
        data = rest;
    }
    data.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Record(Vec<String>);

    impl Commands for Record {
        fn set_pairs(&mut self, pairs: u16) -> bool {
            self.0.push(format!("pairs {pairs}"));
            pairs <= 2
        }

        fn set_mac(&mut self, mac: [u8; 6]) -> bool {
            self.0.push(format!("mac {mac:?}"));
            true
        }

        fn set_offloads(&mut self, features: u64) -> bool {
            self.0.push(format!("offloads {features:#x}"));
            true
        }
    }

    #[test]
    fn commands_are_done_or_refused() {
        let table = |counts: [u32; 2], bytes: usize| {
            let mut data = vec![1, 0];
            data.extend(counts[0].to_le_bytes());
            data.extend(vec![2; counts[0] as usize * MAC]);
            data.extend(counts[1].to_le_bytes());
            data.extend(vec![2; bytes]);
            data
        };
        for (command, done, said) in [
            (&[][..], false, ""),
            (&[0], false, ""),
            (&[0, 0, 1], true, ""),
            (&[0, 1, 0], true, ""),
            (&[0, 0, 2], false, ""),
            (&[0, 0], false, ""),
            (&[0, 3, 1], false, ""),
            (&[2, 0, 1, 0], false, ""),
            (&[1, 1, 2, 0, 0, 0, 0, 1], true, "mac [2, 0, 0, 0, 0, 1]"),
            (&[1, 1, 3, 0, 0, 0, 0, 1], false, ""),
            (&[1, 1, 2, 0, 0, 0, 0], false, ""),
            (&[4, 0, 2, 0], true, "pairs 2"),
            (&[4, 0, 3, 0], false, "pairs 3"),
            (&[4, 0, 0, 0], false, ""),
            (&[4, 0, 1], false, ""),
            (&[4, 1, 1, 0], false, ""),
            (&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0], true, "offloads 0x2"),
            (&[5, 0, 2, 0, 0, 0], false, ""),
            (&table([0, 0], 0), true, ""),
            (&table([2, 1], 6), true, ""),
            (&table([2, 1], 5), false, ""),
            (&table([0, u32::MAX], 6), false, ""),
            (&[1, 0, 0, 0], false, ""),
            (&[9, 9, 9], false, ""),
        ] {
            let mut record = Record::default();
            assert_eq!(execute(command, &mut record), done, "{command:?}");
            assert_eq!(record.0.concat(), said, "{command:?}");
        }
    }
}
