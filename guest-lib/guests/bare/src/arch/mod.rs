//! Parts of the CPU that the kernel uses and so do, at CPL 0, some attacks of the program.
//!
//! | module | object |
//! | --- | --- |
//! | [`apic`] | the local APIC and its timer |
//! | [`selectors`] | segment selectors of the kernel's descriptor table |

pub mod apic;
pub mod selectors;
