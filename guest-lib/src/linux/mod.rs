//! The VM's NIC port for programs on Linux (feature `std`): found in sysfs, mapped, and handed out as
//! a [`Nic`](crate::nic::Nic) for each queue. The kernel is not modified, and a driver of its own is
//! bound only for who sleeps.
//!
//! ```no_run
//! use postern_guest::linux::Port;
//!
//! let port = Port::open()?;
//! let mut nic = port.queue(0)?;
//! nic.tx_burst(&[[0xff; 60]]);
//! # Ok::<(), postern_guest::linux::Error>(())
//! ```
//!
//! | module | object |
//! | --- | --- |
//! | [`port`] | [`Port`]: opens the port, gives its queues |
//! | [`device`] | the PCI device in sysfs, and what it says of the port |
//! | [`sleeper`] | [`Sleeper`]: waits for frames without polling |
//! | [`path`] | [`PathService`]: one type for the requests of all paths |
//! | [`fault`] | the signals by which a program learns that a call was aborted |
//! | [`error`] | [`Error`]: what is wrong, and what to do about it |
//!
//! # Threads, processes, virtual CPUs
//!
//! A [`Nic`](crate::nic::Nic) has one user at a time, since its methods take `&mut self`. It can move
//! to another thread (it is `Send`), and its thread can move to another vCPU, at any time and without
//! pinning, `rseq` or `sched_getcpu`. That is so because the two numbers which a request depends on
//! have different owners:
//!
//! | number | belongs to | who says it |
//! | --- | --- | --- |
//! | TX queue: ring and positions that the request takes frames from | the `Nic` | the request itself |
//! | sender: the lanes at the receivers that the request writes | the calling vCPU | the host, in words that the guest cannot write (on `direct`: the number of the `Nic`'s queue) |
//!
//! A request may name any TX queue of the port from any vCPU of the VM. The guest's kernel can move a
//! thread only between two instructions of the guest, and a call is none of them until it has
//! returned: interrupts wait while a view is active, and VMCALL and OUT are one instruction. So a
//! vCPU is in one call at a time, and a lane has one writer. Between two calls that come from
//! different vCPUs the kernel's own scheduling orders the thread's memory accesses.
//!
//! On `direct` the switch runs in the program, which can be preempted in it. There a sender is the
//! number of the `Nic`'s queue, which one `Nic` has at a time.
//!
//! What follows for a program:
//!
//! * *Order.* Frames that one `Nic` sends from one vCPU arrive in order. Frames that it sends from
//!   different vCPUs lie in different lanes of the receiver, which takes turns between lanes: they
//!   may arrive in another order. A thread that needs order across moves pins itself, and nothing
//!   else does.
//! * *Queues.* Each queue is locked while a `Nic` of it lives, against other threads and other
//!   processes alike ([`Error::QueueInUse`]); the lock goes with the process that held it.
//! * *Number.* The VMM gives a VM at most as many vCPUs as the NIC has queues, except on `direct`.
//!   Threads that send need a queue each, however many vCPUs there are.
//! * *fork.* The window is not inherited: a child that uses its parent's `Nic` dies of SIGSEGV.
//! * *exit-user* needs the right to an I/O port, which Linux gives to threads. [`Port::queue`] asks
//!   for the calling thread, and threads that it starts later inherit it; any other thread calls
//!   [`Port::allow_thread`] first, else its first request is a SIGSEGV.
//!
//! # Sleeping
//!
//! A thread that has nothing to do calls [`Sleeper::wait`], or has the [`Sleeper`]'s descriptor in its
//! epoll. In between nothing polls:
//!
//! ```text
//! sleeper          arms the word `latest` of its RX queue, finds nothing there, and sleeps in poll()
//! sender           sends a frame; the NIC finds the word armed and names the RX queue to the sender,
//!                  whose `Nic` rings: a store to a register of its device, the only VM exit
//! sleeper's VM     is interrupted; uio_pci_generic counts it for every open file of /dev/uioN
//! sleeper          wakes, disarms, receives
//! ```
//!
//! * Nothing is lost between the look and the sleep: the queue is armed by a compare-and-exchange with
//!   the word of the last look, and an interrupt that comes before poll() is counted.
//! * All queues of a port share one interrupt, as UIO has INTx alone. Each [`Sleeper`] opens
//!   `/dev/uioN` itself and has a count of its own, in whatever process; a wake-up for another queue
//!   is counted ([`SleepStats::spurious`](sleeper::SleepStats::spurious)) and slept on.
//! * A sender that never rings, or dies before it does, costs a tick of the NIC's owner: he looks
//!   after queues that sleep with frames in them every tenth of a second. A hostile one that rings all
//!   the time wakes the VM at a rate that its VMM bounds.
//! * A signal ends [`Sleeper::wait`] ([`Wake::Signal`]), unlike reads and locks of the standard
//!   library, which go on: so a program can look at what its handler has noted.
//! * Threads may move between vCPUs, and the [`Sleeper`] between threads; a child of fork has neither
//!   the window nor the registers.
//!
//! # An aborted call
//!
//! The host ends a call that breaks the rules, or whose port was taken away, with an invalid-opcode
//! exception at [`VMFUNC_GVA`](crate::gate::VMFUNC_GVA), and the thread gets SIGILL; see [`fault`].
//! Calls cannot be interrupted by signals: one that comes meanwhile is delivered behind the call.
//! Debuggers that set a hardware breakpoint, and `perf` with one, turn views off on that vCPU, and
//! the next call there is a SIGILL.
//!
//! # Memory type
//!
//! Linux maps `resource2` with the type UC- (`pci_mmap_resource_range`: `pgprot_device`), and
//! `resource2_wc`, which prefetchable BARs have besides, with WC. In a VM whose host has no device
//! with non-coherent DMA assigned to it, KVM makes the EPT type of RAM write-back and ignores the
//! guest's PAT (`vmx_get_mt_mask`; in 6.12 `vmx_ignore_guest_pat`, true unless a VMM disables
//! `KVM_X86_QUIRK_IGNORE_GUEST_PAT`), so both are write-back. Of the two, UC- is mapped here: where
//! the guest's type does count, it keeps the order of stores, which WC does not and the rings rely
//! on; it is slow there, and views, whose type is always write-back, then see the same bytes by
//! self-snooping alone. Do not assign such devices to a VM that has a NIC port.
//!
//! # What it needs
//!
//! | what | for |
//! | --- | --- |
//! | CAP_SYS_ADMIN | the whole configuration space; switching the device on, if no driver has |
//! | write permission on `resource2` (root, or a udev rule) | the window |
//! | CAP_SYS_RAWIO | the I/O port, on exit-user alone |
//! | CAP_SYS_ADMIN, `/dev/uioN` and the driver `uio_pci_generic` (Debian has it) | sleeping: each [`Port::sleeper`] |
//! | no lockdown of the kernel (Secure Boot sets it on some distributions) | window and I/O port |
//! | a policy that allows executable anonymous memory (SELinux: `execmem`) | the gate area |

mod affinity;
pub mod device;
pub mod error;
pub mod fault;
mod gate_area;
mod interrupt;
mod io_port;
mod mapping;
pub mod path;
pub mod port;
mod queue_lock;
mod registers;
pub mod sleeper;
mod trial;

pub use error::Error;
pub use path::PathService;
pub use port::Port;
pub use sleeper::{Sleeper, Wake};
