//! The escape key of a terminal that is a guest's console.
#![deny(unsafe_code)]

/// What the user asks for by the escape key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// End the VM.
    Quit,
    /// Leave the console, and the VM alone.
    Detach,
    /// Stop this program, as Ctrl-Z does elsewhere.
    Suspend,
    /// Say which keys there are.
    Help,
}

/// Takes the escape key out of what is typed: Ctrl-A, as in QEMU, and one more key. Everything else
/// is the guest's, Ctrl-C and Ctrl-Z too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Escape {
    escaped: bool,
}

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

impl Escape {
    /// What the keys do, for people.
    pub const HELP: &str = "Ctrl-A x ends the VM (or leaves its console, where it was joined), \
                            Ctrl-A d leaves a console that was joined, Ctrl-A z suspends postern, \
                            Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this; all other keys, Ctrl-C \
                            too, go to the guest";

    /// Takes what was typed; gives what is the guest's to `pass`, and returns the actions in order.
    pub fn filter(&mut self, typed: &[u8], mut pass: impl FnMut(u8)) -> Vec<Action> {
        let mut actions = Vec::new();
        for &key in typed {
            if !std::mem::take(&mut self.escaped) {
                match key {
                    ESCAPE => self.escaped = true,
                    other => pass(other),
                }
                continue;
            }
            match key {
                b'x' => actions.push(Action::Quit),
                b'd' => actions.push(Action::Detach),
                b'z' => actions.push(Action::Suspend),
                b'h' | b'?' => actions.push(Action::Help),
                // As in QEMU, another key sends nothing; the escape key sends itself.
                ESCAPE | b'a' => pass(ESCAPE),
                _ => {}
            }
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(escape: &mut Escape, keys: &[u8]) -> (Vec<u8>, Vec<Action>) {
        let mut passed = Vec::new();
        let actions = escape.filter(keys, |key| passed.push(key));
        (passed, actions)
    }

    #[test]
    fn keys_and_actions() {
        let mut escape = Escape::default();
        let nothing: (Vec<u8>, Vec<Action>) = (Vec::new(), Vec::new());
        assert_eq!(typed(&mut escape, b"ls\r\x03\x1a").0, b"ls\r\x03\x1a");
        assert_eq!(typed(&mut escape, b"\x01"), nothing, "also in two parts");
        assert_eq!(
            typed(&mut escape, b"xx"),
            (b"x".to_vec(), vec![Action::Quit])
        );
        assert_eq!(
            typed(&mut escape, b"\x01\x01a"),
            (b"\x01a".to_vec(), vec![])
        );
        let all = [Action::Detach, Action::Suspend, Action::Help];
        assert_eq!(typed(&mut escape, b"\x01d\x01z\x01h").1, all);
        assert_eq!(typed(&mut escape, b"\x01q"), nothing);
    }
}
