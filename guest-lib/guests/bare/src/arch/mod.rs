//! What the kernel and, at CPL 0, some attacks of the program know of the CPU.
//!
//! | module | object |
//! | --- | --- |
//! | [`apic`] | the local APIC and its timer |
//! | [`selectors`] | segment selectors of the kernel's descriptor table |

pub mod apic;
pub mod selectors;
