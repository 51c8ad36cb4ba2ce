//! The device.
#![deny(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use postern_confine::Kind;
use postern_nic_client::mac::Mac;
use postern_tap::{Interface, Tap};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net as net;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::config::{Backend, NetConfig};
use super::control_thread::ControlThread;
use super::error::NetError;
use super::fault::Fault;
use super::features::{self, OF_BACKEND, bit};
use super::header::HEADER;
use super::receive::Receive;
use super::ring::Ring;
use super::tap_commands::TapCommands;
use super::transmit::Transmit;
use super::user::QueuePair;
use crate::virtio::buffers::Buffers;
use crate::virtio::device::read_space;
use crate::virtio::relay::{Relay, event};
use crate::virtio::scheduling::wake_behind_others;
use crate::virtio::vhost::{self, Vhost};
use crate::virtio::{ActivateError, Activation, ActiveQueue, DeviceStatus, VirtioDevice};

/// Size of each receive and transmit queue: that of QEMU's virtio-net.
const QUEUE_SIZE: u16 = 256;

/// Size of the control queue.
const CONTROL_SIZE: u16 = 64;

/// Size of the configuration space in bytes: MAC address, status, most queue pairs, MTU.
const CONFIG: usize = 12;

/// A virtio-net device over a TAP.
pub struct Net {
    name: String,
    taps: Arc<Vec<Tap>>,
    vhost: Vec<Vhost>,
    features: u64,
    mtu: u16,
    /// The address that the device begins with.
    first_mac: [u8; 6],
    mac: Arc<Mutex<[u8; 6]>>,
    running: Option<Running>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("tap", &self.name)
            .field("queues", &self.taps.len())
            .field("running", &self.running.is_some())
            .finish_non_exhaustive()
    }
}

/// What works on the queues of a device.
struct Running {
    stop: EventFd,
    threads: Vec<JoinHandle<()>>,
}

impl Net {
    /// Opens the TAP, and vhost-net if it is to move the packets.
    ///
    /// # Errors
    ///
    /// Either cannot be had.
    pub fn open(config: &NetConfig) -> Result<Net, NetError> {
        let queues = usize::from(config.queues);
        let taps = Tap::open_queues(&config.tap, queues)?;
        let name = config.tap.clone();
        for tap in &taps {
            tap.reset(HEADER).map_err(|source| NetError::SetUp {
                name: name.clone(),
                source,
            })?;
        }
        let interface = Interface::new(&name)?;
        if let Some(mtu) = config.mtu {
            interface.set_mtu(mtu.into())?;
        }
        interface.bring_up()?;
        let vhost = match config.backend {
            Backend::User => Vec::new(),
            Backend::Vhost if config.vhostfd.is_empty() => {
                let opened = (0..queues).map(|_| Vhost::open(vhost::NET));
                opened
                    .collect::<io::Result<_>>()
                    .map_err(|source| no_vhost(&name, source))?
            }
            Backend::Vhost => {
                let inherited = config.vhostfd.iter().map(|&descriptor| {
                    Vhost::inherit(descriptor)
                        .map_err(|source| NetError::Inherited { descriptor, source })
                });
                inherited.collect::<Result<Vec<_>, _>>()?
            }
        };
        let mut backend = OF_BACKEND;
        for device in &vhost {
            backend &=
                device
                    .prepare(&GuestMemoryMmap::new())
                    .map_err(|source| NetError::Vhost {
                        step: "prepare",
                        name: name.clone(),
                        source,
                    })?;
        }
        let mac = match config.mac {
            Some(mac) => mac.0,
            None => Mac::draw().map_err(NetError::Random)?.0,
        };
        Ok(Net {
            name,
            taps: Arc::new(taps),
            vhost,
            features: features::offered(backend, queues > 1, config.mtu.is_some()),
            mtu: config.mtu.unwrap_or_default(),
            first_mac: mac,
            mac: Arc::new(Mutex::new(mac)),
            running: None,
        })
    }

    /// Name of the TAP.
    pub fn tap(&self) -> &str {
        &self.name
    }

    fn start(&mut self, activation: Activation) -> Result<Running, ActivateError> {
        let Activation {
            memory,
            features,
            mut queues,
            config_changed: _,
            status,
        } = activation;
        let several = features & bit(net::VIRTIO_NET_F_MQ) != 0;
        let pairs = if several { self.taps.len() } else { 1 };
        let mut take = |index: usize| queues.get_mut(index).and_then(Option::take);
        let control = match features & bit(net::VIRTIO_NET_F_CTRL_VQ) {
            0 => None,
            _ => take(2 * pairs),
        };
        self.taps[0]
            .set_offloads(features::tap_offloads(features))
            .map_err(|source| failed("set the offloads of TAP", &self.name, source))?;
        let mut commands = TapCommands {
            taps: Arc::clone(&self.taps),
            pairs: self.taps.len(),
            most: pairs,
            mac: Arc::clone(&self.mac),
            features,
        };
        commands
            .enable(1)
            .map_err(|source| failed("choose the queues of TAP", &self.name, source))?;
        let stop = event().map_err(|source| failed("stop", &self.name, source))?;
        let mut running = Running {
            stop,
            threads: Vec::new(),
        };
        let mut thread = ControlThread {
            memory: memory.clone(),
            queue: None,
            commands: Box::new(commands),
            relay: Relay::default(),
        };
        if let Some(control) = control {
            let kick = duplicate(&control.kick, &self.name)?;
            thread.queue = Some((Ring::new(&memory, control), kick));
        }
        for pair in 0..pairs {
            // A driver that does not use all of them leaves some out.
            let (Some(receive), Some(transmit)) = (take(2 * pair), take(2 * pair + 1)) else {
                continue;
            };
            let queues = [receive, transmit];
            let started = match self.vhost.get(pair) {
                Some(device) => {
                    self.start_vhost(pair, device, &memory, features, &queues, &mut thread)
                }
                None => self.start_user(pair, &memory, features, queues, &status, &mut running),
            };
            if let Err(error) = started {
                self.stop(running);
                return Err(error);
            }
        }
        let spawned = spawn(
            format!("{}-control", self.name),
            &running.stop,
            &status,
            move |stop| thread.run(stop),
        );
        match spawned {
            Ok(handle) => running.threads.push(handle),
            Err(source) => {
                self.stop(running);
                return Err(failed("start a thread for", &self.name, source));
            }
        }
        Ok(running)
    }

    fn start_vhost(
        &self,
        pair: usize,
        device: &Vhost,
        memory: &GuestMemoryMmap,
        features: u64,
        queues: &[ActiveQueue; 2],
        thread: &mut ControlThread,
    ) -> Result<(), ActivateError> {
        let fail = |what: &str, source| failed(what, &self.name, source);
        device
            .set_up(memory, features & OF_BACKEND)
            .map_err(|source| fail("set up vhost-net for", source))?;
        for (index, active) in queues.iter().enumerate() {
            thread
                .relay
                .add(device, memory, (index, 2 * pair + index), active)
                .map_err(|source| fail("give vhost-net a queue for", source))?;
        }
        for index in 0..queues.len() {
            let tap = self.taps[pair].as_fd();
            device
                .set_backend(index, Some(tap))
                .map_err(|source| fail("start vhost-net for", source))?;
        }
        Ok(())
    }

    fn start_user(
        &self,
        pair: usize,
        memory: &GuestMemoryMmap,
        features: u64,
        queues: [ActiveQueue; 2],
        status: &Arc<dyn DeviceStatus>,
        running: &mut Running,
    ) -> Result<(), ActivateError> {
        let [receive, transmit] = queues;
        let kicks = [
            duplicate(&receive.kick, &self.name)?,
            duplicate(&transmit.kick, &self.name)?,
        ];
        let buffers = || Buffers::new(memory.clone());
        let mergeable = features & bit(net::VIRTIO_NET_F_MRG_RXBUF) != 0;
        let receive = Receive::new(Ring::new(memory, receive), buffers(), mergeable);
        let transmit = Transmit::new(Ring::new(memory, transmit), buffers());
        let [receive_kick, transmit_kick] = kicks;
        let taps = Arc::clone(&self.taps);
        let spawned = spawn(
            format!("{}-{pair}", self.name),
            &running.stop,
            status,
            move |stop| {
                // Without it there are more exits where the guest has this processor, too.
                let _ = wake_behind_others();
                QueuePair {
                    tap: &taps[pair],
                    receive: (receive, receive_kick),
                    transmit: (transmit, transmit_kick),
                }
                .run(stop)
            },
        );
        let handle = spawned.map_err(|source| failed("start a thread for", &self.name, source))?;
        running.threads.push(handle);
        Ok(())
    }

    /// When this returns, nobody touches the queues.
    fn stop(&self, running: Running) {
        for device in &self.vhost {
            for index in 0..2 {
                // It refuses only what was not begun.
                let _ = device.set_backend(index, None);
            }
        }
        // The counter of an event that is written once cannot be full.
        let _ = running.stop.write(1);
        for thread in running.threads {
            // A thread that panicked touches nothing any more either.
            let _ = thread.join();
        }
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u16 {
        VIRTIO_ID_NET as u16
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        // Without VIRTIO_NET_F_MQ, the control queue is the third.
        let mut sizes = vec![QUEUE_SIZE; 2 * self.taps.len()];
        sizes.push(CONTROL_SIZE);
        sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mac = *self.mac.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = [0; CONFIG];
        let fields = [
            net::VIRTIO_NET_S_LINK_UP as u16,
            self.taps.len() as u16,
            self.mtu,
        ];
        let bytes = mac
            .into_iter()
            .chain(fields.into_iter().flat_map(u16::to_le_bytes));
        for (to, byte) in config.iter_mut().zip(bytes) {
            *to = byte;
        }
        read_space(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        self.running = Some(self.start(activation)?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(running) = self.running.take() {
            self.stop(running);
        }
        // The next driver may be that of another kernel, and is not to have its forerunner's address.
        *self.mac.lock().unwrap_or_else(PoisonError::into_inner) = self.first_mac;
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Starts a thread that works until it is stopped, or until a fault, which the driver is told of.
fn spawn(
    name: String,
    stop: &EventFd,
    status: &Arc<dyn DeviceStatus>,
    work: impl FnOnce(&EventFd) -> Result<(), Fault> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let (stop, status) = (stop.try_clone()?, Arc::clone(status));
    postern_confine::spawn(Kind::Net, name, move || {
        if let Err(fault) = work(&stop) {
            status.needs_reset(&fault.to_string());
        }
    })
}

fn duplicate(event: &EventFd, name: &str) -> Result<EventFd, ActivateError> {
    event
        .try_clone()
        .map_err(|source| failed("watch a queue of", name, source))
}

fn failed(what: &str, name: &str, source: io::Error) -> ActivateError {
    ActivateError {
        what: format!("{what} {name}"),
        source,
    }
}

fn no_vhost(name: &str, source: io::Error) -> NetError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => NetError::NoVhost { name, source },
        Some(libc::EACCES | libc::EPERM) => NetError::VhostDenied { name },
        _ => NetError::Vhost {
            step: "open",
            name,
            source,
        },
    }
}
