//! The proof of a receiver: each frame of each stream came once, and in order where order is
//! promised.

use std::fmt;

use crate::stamped::{MAX_STREAMS, Stamp};

/// The frames that came, of all streams, through any lane.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// Of each stream the numbers that came, one bit each.
    came: Vec<Vec<u64>>,
    /// Number of frames.
    frames: u64,
}

/// The order of the frames in the lanes of one receiving thread.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Of each lane and stream the number that must come at the least.
    next: Vec<Vec<u64>>,
    /// The greatest number of each stream, whatever lane it came through.
    greatest: Vec<Option<u64>>,
    /// Number of frames that came after one with a greater number.
    overtaken: u64,
}

/// A frame that should not have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It came before.
    Twice(Stamp),
    /// Its number is not below that of the frames that are expected.
    Beyond(Stamp),
    /// A later frame of its stream came before it, through the same lane.
    Disorder {
        /// The frame.
        stamp: Stamp,
        /// The sender whose lane it is.
        sender: u32,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |stamp: &Stamp| format!("frame {} of stream {}", stamp.number, stamp.stream);
        match self {
            Fault::Twice(stamp) => write!(f, "{} came twice", name(stamp)),
            Fault::Beyond(stamp) => write!(f, "{} was not expected", name(stamp)),
            Fault::Disorder { stamp, sender } => write!(
                f,
                "{} came after a later one, both from sender {sender}",
                name(stamp)
            ),
        }
    }
}

impl std::error::Error for Fault {}

impl Proof {
    /// Notes a frame, of whose stream at most `most` are expected.
    ///
    /// # Errors
    ///
    /// It came before, or it was not expected.
    pub fn note(&mut self, stamp: Stamp, most: u64) -> Result<(), Fault> {
        if stamp.number >= most || stamp.stream >= MAX_STREAMS {
            return Err(Fault::Beyond(stamp));
        }
        let came = at(&mut self.came, stamp.stream.into());
        let word = at(came, (stamp.number / 64) as usize);
        let bit = 1 << (stamp.number % 64);
        if *word & bit != 0 {
            return Err(Fault::Twice(stamp));
        }
        *word |= bit;
        self.frames += 1;
        Ok(())
    }

    /// Number of frames that came, each counted once.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Number of streams of which a frame came.
    pub fn streams(&self) -> usize {
        self.came.iter().filter(|stream| !stream.is_empty()).count()
    }
}

impl Order {
    /// Notes a frame that came through the lane of a sender.
    ///
    /// # Errors
    ///
    /// A later frame of the stream came through that lane before.
    pub fn note(&mut self, stamp: Stamp, sender: u32) -> Result<(), Fault> {
        let lane = at(&mut self.next, sender as usize);
        let next = at(lane, stamp.stream.into());
        if stamp.number < *next {
            return Err(Fault::Disorder { stamp, sender });
        }
        *next = stamp.number + 1;
        let greatest = at(&mut self.greatest, stamp.stream.into());
        if *greatest > Some(stamp.number) {
            self.overtaken += 1;
        }
        *greatest = (*greatest).max(Some(stamp.number));
        Ok(())
    }

    /// Number of lanes through which frames came.
    pub fn lanes(&self) -> usize {
        self.next.iter().filter(|lane| !lane.is_empty()).count()
    }

    /// Number of frames that came after a later one of their stream, through another lane.
    pub fn overtaken(&self) -> u64 {
        self.overtaken
    }
}

/// The element at an index, made if there is none.
fn at<T: Clone + Default>(list: &mut Vec<T>, index: usize) -> &mut T {
    if list.len() <= index {
        list.resize(index + 1, T::default());
    }
    &mut list[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(stream: u16, number: u64) -> Stamp {
        Stamp { stream, number }
    }

    #[test]
    fn each_frame_comes_once() {
        let mut proof = Proof::default();
        for number in [0, 63, 64, 1] {
            assert_eq!(proof.note(stamp(1, number), 65), Ok(()));
        }
        assert_eq!(proof.note(stamp(0, 1), 65), Ok(()));
        assert_eq!((proof.frames(), proof.streams()), (5, 2));
        assert_eq!(
            proof.note(stamp(1, 63), 65),
            Err(Fault::Twice(stamp(1, 63)))
        );
        assert_eq!(
            proof.note(stamp(1, 65), 65),
            Err(Fault::Beyond(stamp(1, 65)))
        );
        let stranger = stamp(MAX_STREAMS, 0);
        assert_eq!(proof.note(stranger, 65), Err(Fault::Beyond(stranger)));
        assert_eq!(proof.frames(), 5);
    }

    #[test]
    fn order_holds_in_a_lane_and_not_between_lanes() {
        let mut order = Order::default();
        assert_eq!(order.note(stamp(0, 5), 2), Ok(()));
        assert_eq!(order.note(stamp(0, 3), 1), Ok(()), "another lane");
        assert_eq!(order.note(stamp(1, 0), 2), Ok(()), "another stream");
        assert_eq!((order.lanes(), order.overtaken()), (2, 1));
        let late = stamp(0, 4);
        assert_eq!(
            order.note(late, 2),
            Err(Fault::Disorder {
                stamp: late,
                sender: 2
            })
        );
        assert_eq!(order.note(stamp(0, 6), 2), Ok(()));
    }
}
