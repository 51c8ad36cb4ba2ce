//! What a device's threads tell its driver: interrupts, and that the device needs a reset.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::pci::Interrupts;
use crate::virtio::{DeviceStatus, Notifier};

/// No MSI-X vector (VIRTIO 1.2, "MSI-X Vector Configuration").
pub const NO_VECTOR: u16 = 0xffff;

/// ISR status: a queue has used buffers.
const ISR_QUEUE: u8 = 1;
/// ISR status: the configuration has changed.
const ISR_CONFIG: u8 = 2;

/// How often people are told something of one device: a driver can have it so again and again.
const MOST_TOLD: u32 = 16;

/// How people are told what has become of a device.
pub type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// Interrupts of a device, and the part of its status that its threads set.
pub struct Signals {
    /// Name of the device, for people.
    name: &'static str,
    tell: Tell,
    told: AtomicU32,
    interrupts: OnceLock<Arc<dyn Interrupts>>,
    isr: Mutex<u8>,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    generation: AtomicU8,
    needs_reset: AtomicBool,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Signals {
    /// The signals of a device with so many queues.
    pub fn new(name: &'static str, queues: usize, tell: Tell) -> Signals {
        Signals {
            name,
            tell,
            told: AtomicU32::new(0),
            interrupts: OnceLock::new(),
            isr: Mutex::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            generation: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
        }
    }

    /// Takes the function's interrupts; the first ones stay.
    pub fn connect(&self, interrupts: Arc<dyn Interrupts>) {
        let _ = self.interrupts.set(interrupts);
    }

    /// The vector for changes of the configuration.
    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Relaxed)
    }

    /// The vector of a queue.
    pub fn queue_vector(&self, queue: usize) -> u16 {
        let vector = self.queue_vectors.get(queue);
        vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::Relaxed))
    }

    /// Sets the vector for changes of the configuration; one that is not there is none.
    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector
            .store(self.known(vector), Ordering::Relaxed);
    }

    /// Sets the vector of a queue; one that is not there is none.
    pub fn set_queue_vector(&self, queue: usize, vector: u16) {
        if let Some(own) = self.queue_vectors.get(queue) {
            own.store(self.known(vector), Ordering::Relaxed);
        }
    }

    fn known(&self, vector: u16) -> u16 {
        let interrupts = self.interrupts.get();
        match interrupts.and_then(|interrupts| interrupts.event(vector)) {
            Some(_) => vector,
            None => NO_VECTOR,
        }
    }

    /// Number of changes of the configuration, which wraps.
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the device cannot go on.
    pub fn is_broken(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// What the ISR status register reads as; the read clears it.
    pub fn take_isr(&self) -> u8 {
        let mut isr = self.isr.lock().unwrap_or_else(PoisonError::into_inner);
        let value = std::mem::take(&mut *isr);
        if let (true, Some(interrupts)) = (value != 0, self.interrupts.get()) {
            interrupts.set_intx(false);
        }
        value
    }

    /// Back to what the device has after a reset. None of its threads is left.
    pub fn reset(&self) {
        self.take_isr();
        self.needs_reset.store(false, Ordering::Release);
        for vector in self.queue_vectors.iter().chain([&self.config_vector]) {
            vector.store(NO_VECTOR, Ordering::Relaxed);
        }
    }

    fn interrupt(&self, vector: u16, cause: u8) -> io::Result<()> {
        let Some(interrupts) = self.interrupts.get() else {
            return Ok(());
        };
        if interrupts.msix_enabled() {
            return interrupts.signal(vector);
        }
        // Under the lock, so that a read cannot clear a cause and leave the pin asserted.
        let mut isr = self.isr.lock().unwrap_or_else(PoisonError::into_inner);
        *isr |= cause;
        interrupts.set_intx(true);
        Ok(())
    }
}

impl DeviceStatus for Signals {
    fn needs_reset(&self, why: &str) {
        if self.needs_reset.swap(true, Ordering::AcqRel) {
            return;
        }
        self.tell(&format!("{why}; it waits for a reset"));
        // A driver that cannot be told finds the status when it looks.
        let _ = self.interrupt(self.config_vector(), ISR_CONFIG);
    }

    fn tell(&self, what: &str) {
        if self.told.fetch_add(1, Ordering::Relaxed) < MOST_TOLD {
            (self.tell)(&format!("{}: {what}", self.name));
        }
    }
}

/// Tells the driver of changes of the configuration.
#[derive(Debug)]
pub struct ConfigNotifier(pub Arc<Signals>);

impl Notifier for ConfigNotifier {
    fn notify(&self) -> io::Result<()> {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.0.interrupt(self.0.config_vector(), ISR_CONFIG)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        // The generation has to be counted.
        None
    }
}

/// Tells the driver of used buffers of a queue.
#[derive(Debug)]
pub struct QueueNotifier {
    /// The device's signals.
    pub signals: Arc<Signals>,
    /// Index of the queue.
    pub queue: usize,
}

impl Notifier for QueueNotifier {
    fn notify(&self) -> io::Result<()> {
        let vector = self.signals.queue_vector(self.queue);
        self.signals.interrupt(vector, ISR_QUEUE)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        let interrupts = self.signals.interrupts.get()?;
        let vector = self.signals.queue_vector(self.queue);
        let event = interrupts
            .event(vector)
            .filter(|_| interrupts.msix_enabled())?;
        // SAFETY: the function's interrupts keep the descriptor open for as long as they live, and
        // `self` has them for as long as it does.
        Some(unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) })
    }
}
