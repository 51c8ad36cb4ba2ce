//! Delivery of a frame of the slow path into a lane: as it is, with its checksum completed, or cut.

use postern_abi::window::{
    FEATURE_CSUM, FEATURE_TSO4, FEATURE_TSO6, FEATURE_USO, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6,
    PortId, RecordHeader, record_size,
};

use crate::sync::Ordering::Relaxed;

use super::call::Call;
use super::egress::{EgressFrame, Tagging};
use super::lanes::Lanes;
use super::progress::Progress;
use super::records::{load, store};
use crate::offload::checksum::Partial;
use crate::offload::segment::{Segments, Shape};
use crate::policy::headers::{Headers, SNAPSHOT_BYTES, Snapshot};
use crate::state::Cause;

/// The work on a frame that its sender leaves to others, as `virtio_net_hdr` describes it (virtio
/// 1.2, "Device Operation" of the network device).
#[derive(Clone, Copy)]
pub enum PendingOffload {
    /// There is nothing to do.
    Nothing,
    /// A checksum is to be completed.
    Checksum(Partial),
    /// A large segment is to be cut into frames, and their checksums completed.
    Segmentation(Shape),
}

impl PendingOffload {
    /// Numbers of bytes for which a frame of `length` bytes counts in a rate limit, where its tag
    /// makes it longer by `shift` bytes: those of the first frame on a wire, and those of all frames.
    /// A large segment counts as the frames that it is cut into, here or by its receiver.
    pub fn metered(&self, length: u32, shift: i32) -> (u32, u32) {
        match self {
            PendingOffload::Segmentation(shape) => {
                let first = shape.longest().wrapping_add_signed(shift);
                (first, shape.bytes(shift))
            }
            PendingOffload::Nothing | PendingOffload::Checksum(_) => {
                let length = length.wrapping_add_signed(shift);
                (length, length)
            }
        }
    }
}

/// A frame on the slow path, with its headers and its pending work.
pub struct Packet<'s> {
    /// The header of the frame's record.
    pub header: RecordHeader,
    /// First byte of the frame in its ring.
    pub bytes: *const u8,
    /// The frame's first bytes, read once, which are those that are delivered.
    pub snapshot: &'s Snapshot,
    /// The headers in the snapshot.
    pub headers: &'s Headers,
    /// The work that the sender left undone.
    pub offload: PendingOffload,
    /// Hash of the frame's flow.
    pub hash: u32,
}

impl Packet<'_> {
    /// Bytes `8 * index` to `8 * index + 8` of the frame, read anew. Behind the frame they are
    /// still in its record.
    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        // SAFETY: callers ask for words that hold a byte of the frame, and the record goes on to a
        // multiple of 16 bytes.
        unsafe { load(self.bytes.add(index * 8)) }
    }

    /// Features (`FEATURE_*`) that a receiver needs to take the frame with its work undone.
    fn needs(&self) -> u32 {
        match (self.offload, self.header.gso_type & !GSO_ECN) {
            (PendingOffload::Nothing, _) => 0,
            (PendingOffload::Checksum(_), _) => FEATURE_CSUM,
            (PendingOffload::Segmentation(_), GSO_TCPV4) => FEATURE_CSUM | FEATURE_TSO4,
            (PendingOffload::Segmentation(_), GSO_TCPV6) => FEATURE_CSUM | FEATURE_TSO6,
            (PendingOffload::Segmentation(_), _) => FEATURE_CSUM | FEATURE_USO,
        }
    }
}

impl<'a> Call<'a> {
    /// Copies the frame into the sender's lane to a port, in the form that the port's guest takes.
    /// Returns the number of bytes that were copied, of the frames of a large segment that was cut;
    /// [`u32::MAX`] if all were.
    ///
    /// # Errors
    ///
    /// [`Cause`]: the lane has no room, or the frame is too long with the tag that is put in.
    /// Nothing was delivered.
    #[inline(never)]
    pub fn deliver(
        &self,
        packet: &Packet<'_>,
        to: PortId,
        tagging: Tagging,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> Result<u32, Cause> {
        let queue = self.queue_of(packet.hash);
        let able = self.port_state(to).features.load(Relaxed);
        let whole = packet.needs() & !able == 0;
        if let PendingOffload::Segmentation(shape) = packet.offload
            && !whole
        {
            return self.deliver_segments(packet, shape, to, queue, tagging, progress, lanes);
        }
        let known = packet.snapshot.known();
        // SAFETY: a frame longer than a snapshot goes on behind it in its record. A shorter one has
        // no such part, and `rest` is not read: its length is 0.
        let rest = unsafe { packet.bytes.add(SNAPSHOT_BYTES as usize) };
        let rest_length = packet.header.length.wrapping_sub(known);
        let frame = EgressFrame::new(packet.snapshot.words(), known, rest, rest_length, tagging);
        let mut header = RecordHeader::default();
        if whole && packet.needs() != 0 {
            header = packet.header;
            header.csum_start = header
                .csum_start
                .wrapping_add_signed(tagging.shift() as i16);
            // The sender's value is a hint that nobody has checked.
            header.hdr_len = match packet.offload {
                PendingOffload::Segmentation(shape) => {
                    shape.header_length().wrapping_add_signed(tagging.shift()) as u16
                }
                _ => 0,
            };
        }
        // A tag that is put in may make the frame too long.
        let longest = match header.gso_type {
            GSO_NONE => self.caller.geometry().max_frame(),
            _ => self.caller.geometry().max_segment(),
        };
        if frame.length() > longest {
            return Err(Cause::TooLong);
        }
        let at = self.emit(&frame, header, to, queue, progress, lanes)?;
        if let PendingOffload::Checksum(partial) = packet.offload
            && !whole
        {
            let start = (partial.start() as u16).wrapping_add_signed(tagging.shift() as i16);
            let offset = packet.header.csum_offset;
            if let Some(partial) = Partial::new(start, offset, frame.length()) {
                // SAFETY: `at` is the first byte of the frame in the lane, whose record begins at a
                // multiple of 16 bytes and goes on to one. `Partial::new` saw that the checksum
                // lies in the frame.
                unsafe { complete(at, partial) };
            }
        }
        Ok(u32::MAX)
    }

    /// Cuts a large segment, and copies the frames into the sender's lane to a port. Returns the
    /// number of bytes of those that had room; [`u32::MAX`] if all had.
    ///
    /// # Errors
    ///
    /// [`Cause`]: there is no room for the first frame (for all of them, where frames are held), or
    /// it is too long. Nothing was delivered.
    #[expect(
        clippy::too_many_arguments,
        reason = "`deliver` has found all of it out"
    )]
    #[inline(never)]
    fn deliver_segments(
        &self,
        packet: &Packet<'_>,
        shape: Shape,
        to: PortId,
        queue: u32,
        tagging: Tagging,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> Result<u32, Cause> {
        let longest = shape.longest().wrapping_add_signed(tagging.shift());
        if longest > self.caller.geometry().max_frame() {
            return Err(Cause::TooLong);
        }
        if self.hold {
            // A segment of which some frames were delivered cannot be held: they would be sent
            // twice.
            let needed = shape.records(tagging.shift());
            lanes.open(self, to, queue)?.wait_for(self, needed)?;
        }
        let mut segments = Segments::new(packet.snapshot, shape);
        let mut sent = 0u32;
        while let Some(payload) = segments.advance() {
            progress.count_copies(1);
            let (from, end) = (payload.offset, payload.offset.wrapping_add(payload.length));
            let sum = segments
                .sum()
                .add_range(from, end, |index| packet.word(index));
            segments.finish(sum);
            // SAFETY: the payload lies in the frame, as `Shape::check` compared their lengths.
            let rest = unsafe { packet.bytes.add(from as usize) };
            let known = segments.header_length();
            let frame = EgressFrame::new(segments.header(), known, rest, payload.length, tagging);
            match self.emit(&frame, RecordHeader::default(), to, queue, progress, lanes) {
                Ok(_) => sent = sent.wrapping_add(frame.length()),
                Err(cause) if sent != 0 => {
                    self.refuse(packet, to, cause, lanes);
                    return Ok(sent);
                }
                Err(cause) => return Err(cause),
            }
        }
        Ok(u32::MAX)
    }

    /// Counts a frame that is not delivered to a port, by its cause.
    #[cold]
    #[inline(never)]
    pub fn refuse(&self, packet: &Packet<'_>, to: PortId, cause: Cause, lanes: &mut Lanes<'a>) {
        match cause {
            Cause::Full | Cause::BadReceiver => {
                if let Ok(lane) = lanes.open(self, to, self.queue_of(packet.hash)) {
                    lane.refuse(self, cause);
                }
            }
            _ => self.sender().count(cause, 1),
        }
    }

    /// Number, in its port, of the RX queue that a frame with this flow hash goes to.
    fn queue_of(&self, hash: u32) -> u32 {
        let queues = self.caller.geometry().queues();
        ((u64::from(hash) * u64::from(queues)) >> 32) as u32
    }

    /// Writes a frame into the sender's lane to an RX queue. Returns the address of the frame's
    /// first byte there.
    ///
    /// # Errors
    ///
    /// [`Cause`]: the lane has no room.
    #[inline(never)]
    fn emit(
        &self,
        frame: &EgressFrame,
        header: RecordHeader,
        to: PortId,
        queue: u32,
        progress: &mut Progress,
        lanes: &mut Lanes<'a>,
    ) -> Result<*mut u8, Cause> {
        let size = record_size(frame.length()) as usize;
        let lane = lanes.open(self, to, queue)?;
        if size > lane.room(self).left {
            lane.make_room(self, size)?;
        }
        let room = lane.room(self);
        // SAFETY: the room has `size` bytes, aligned to 16. The rest of the frame lies in the ring
        // that it was taken from, which stays readable during the call.
        unsafe { frame.write(room.to, header) };
        lane.pass(frame.length());
        progress.copied = progress.copied.wrapping_add(frame.length().into());
        // SAFETY: the record that was written there begins with a header of 16 bytes.
        Ok(unsafe { room.to.add(16) })
    }
}

/// Completes the checksum of a frame in the lane that it was copied into.
///
/// # Safety
///
/// `frame` is the first byte, aligned to 16 bytes, of a frame of the length that `partial` was made
/// for, in a record that is not published yet.
#[inline(never)]
unsafe fn complete(frame: *mut u8, partial: Partial) {
    // SAFETY: `finish` asks for words that hold bytes of the frame, which lie in the caller's
    // record with all of their 8 bytes.
    let checksum = partial.finish(|index| unsafe { load(frame.add(index * 8)) });
    let [first, second] = partial.words();
    for (index, again) in [(first, false), (second, first == second)] {
        if !again {
            // SAFETY: the word holds a byte of the checksum, which lies in the frame, in a record
            // that the caller says is not published yet.
            unsafe {
                let at = frame.add(index * 8);
                store(at, partial.patch(checksum, index, load(at)));
            }
        }
    }
}
