//! Segment selectors: positions in the global descriptor table that the kernel makes.
#![deny(unsafe_code)]

use x86_64::PrivilegeLevel;
use x86_64::structures::gdt::SegmentSelector;

/// Selector of the kernel's code segment.
pub const KERNEL_CODE: SegmentSelector = SegmentSelector::new(1, PrivilegeLevel::Ring0);
/// Selector of the kernel's stack segment.
pub const KERNEL_DATA: SegmentSelector = SegmentSelector::new(2, PrivilegeLevel::Ring0);
/// Selector of the program's stack segment.
pub const USER_DATA: SegmentSelector = SegmentSelector::new(3, PrivilegeLevel::Ring3);
/// Selector of the program's code segment.
pub const USER_CODE: SegmentSelector = SegmentSelector::new(4, PrivilegeLevel::Ring3);
/// Selector of the task state segment, whose descriptor takes two positions.
pub const TASK_STATE: SegmentSelector = SegmentSelector::new(5, PrivilegeLevel::Ring0);
