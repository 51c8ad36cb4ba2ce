//! What the VMM tells a guest about its NIC port, under its former name; see
//! [`postern_abi::port_word`].

pub use postern_abi::port_word::{PortWord as Attachment, PortWordError as AttachmentError};
