//! What a NIC is to be, and why there is none.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;

use super::store::{KeeperProgram, StoreError};
use crate::image::ImageError;
use crate::view::ViewError;
use postern_nic_client::memory::MemoryError;

/// How long stations are known that send nothing, where nobody asks for another time.
pub const DEFAULT_AGEING: Duration = Duration::from_secs(300);

/// What a NIC is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where VMMs connect.
    pub socket: PathBuf,
    /// Ports, queues and sizes of rings.
    pub geometry: Geometry,
    /// The image that views are made of (`host-nic/image/build.sh`); without it there are none.
    pub image: Option<PathBuf>,
    /// Paths that are offered.
    pub paths: Vec<CallPath>,
    /// Numbers of ports from whose frames no stations are learned: their guests replay captures, or
    /// speak for many stations in another way.
    pub unlearned: Vec<u32>,
    /// How long stations are known that send nothing; zero is for ever.
    pub ageing: Duration,
    /// What keeps the NIC while it has no owner; without, the NIC ends with its owner.
    pub keeper: Option<KeeperProgram>,
    /// A NIC that is kept may have another geometry.
    pub any_geometry: bool,
}

impl Options {
    /// All paths, all ports learned from, no image, no keeper.
    pub fn new(socket: impl Into<PathBuf>, geometry: Geometry) -> Options {
        Options {
            socket: socket.into(),
            geometry,
            image: None,
            paths: CallPath::ALL.to_vec(),
            unlearned: Vec::new(),
            ageing: DEFAULT_AGEING,
            keeper: None,
            any_geometry: false,
        }
    }
}

/// Why there is no NIC.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The image is none.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Views are there, yet cannot be made.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Another NIC listens there.
    #[error("another NIC is already listening on {}; choose another socket or stop that one", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket; choose another name or remove it", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {}", socket.display())]
    Listen {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A port of the options is not one of the NIC.
    #[error("there is no port {port} on a NIC of {ports} ports")]
    NoSuchPort {
        /// As given.
        port: u32,
        /// Ports of the NIC.
        ports: u32,
    },
    /// There is no keeper.
    #[error(transparent)]
    Keeper(#[from] StoreError),
    /// The NIC that is kept is another one.
    #[error(
        "the NIC that is kept at {} has {kept}, not {wanted}; ask for the same, or stop it (postern nic stop)",
        socket.display()
    )]
    Kept {
        /// Its socket.
        socket: PathBuf,
        /// What it has.
        kept: String,
        /// What was asked for.
        wanted: String,
    },
    /// The clock does not run.
    #[error("cannot start the NIC's clock")]
    Clock(#[source] io::Error),
    /// The system refused something without which the server cannot go on.
    #[error("the NIC cannot wait for its clients")]
    Wait(#[source] io::Error),
}
