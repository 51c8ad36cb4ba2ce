//! The NIC that a caller wants.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use postern_abi::platform::CallPath;
use postern_abi::window::Geometry;

/// Time for which stations are known that send nothing, where nobody asks for another one.
pub const DEFAULT_AGEING: Duration = Duration::from_secs(300);

/// The NIC that a caller wants.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The socket that clients connect to.
    pub socket: PathBuf,
    /// Numbers of ports and queues, and sizes of rings.
    pub geometry: Geometry,
    /// The image that views are made of (`host-nic/image/build.sh`); without it there are none.
    pub image: Option<PathBuf>,
    /// The paths that are offered.
    pub paths: Vec<CallPath>,
    /// Numbers of ports from whose frames no stations are learned: their guests replay captures, or
    /// speak for many stations in another way.
    pub unlearned: Vec<u32>,
    /// Time for which stations are known that send nothing; zero is for ever.
    pub ageing: Duration,
    /// The process that keeps the NIC while it has no owner; without one, the NIC ends with its
    /// owner.
    pub keeper: Option<KeeperProgram>,
    /// Whether a NIC that is kept may have another geometry.
    pub any_geometry: bool,
}

/// The program that is the keeper: it calls [`keep`](super::keep).
#[derive(Clone, Debug)]
pub struct KeeperProgram {
    /// The program's file.
    pub program: PathBuf,
    /// The arguments that it is called with.
    pub arguments: Vec<OsString>,
    /// The arguments with which it calls [`launch_keepers`](super::launch_keepers): it is started
    /// with the owner then and starts the keepers, so that the owner executes nothing while it
    /// serves. Without, the owner starts them itself.
    pub launcher: Option<Vec<OsString>>,
}

impl ServerOptions {
    /// All paths, all ports learned from, no image, no keeper.
    pub fn new(socket: impl Into<PathBuf>, geometry: Geometry) -> ServerOptions {
        ServerOptions {
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
