//! Whether answers to what comes from the NIC are at the interface at once.

/// Most looks in a row that are spared.
const MOST: u32 = 15;

/// What was learned of answers. The guest's kernel gives some before the write to the interface has
/// returned, such as those to pings and the segments that an acknowledgement of TCP makes room for. Others
/// are those of a program, which runs once this one sleeps: to look for them before is a system call in
/// vain. A look that is spared costs nothing but the time until the next one, since whoever sleeps is told
/// of frames that are there.
#[derive(Debug, Default)]
pub struct Answers {
    /// Looks that are spared after one in vain: more each time.
    spared: u32,
    /// How many of them are left.
    left: u32,
}

impl Answers {
    /// Whether to look for answers now.
    pub fn are_likely(&mut self) -> bool {
        let likely = self.left == 0;
        self.left = self.left.saturating_sub(1);
        likely
    }

    /// Notes whether there were any.
    pub fn note(&mut self, found: bool) {
        self.spared = match found {
            true => 0,
            false => (2 * self.spared + 1).min(MOST),
        };
        self.left = self.spared;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_never_answers_at_once_is_looked_at_ever_less_often_but_again() {
        let mut answers = Answers::default();
        let mut looks = Vec::new();
        for frame in 0..100 {
            if answers.are_likely() {
                looks.push(frame);
                answers.note(false);
            }
        }
        assert_eq!(looks, [0, 2, 6, 14, 30, 46, 62, 78, 94]);
        while !answers.are_likely() {}
        answers.note(true);
        for _ in 0..10 {
            assert!(answers.are_likely(), "each time once there are answers");
            answers.note(true);
        }
    }
}
