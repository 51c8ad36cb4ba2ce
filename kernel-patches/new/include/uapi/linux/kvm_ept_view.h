/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * EPT views: extra, host-made EPT hierarchies of a vCPU that guest user code
 * enters and leaves with VMFUNC, without a VM exit.  See
 * Documentation/virt/kvm/x86/ept-view.rst.
 */
#ifndef _UAPI_LINUX_KVM_EPT_VIEW_H
#define _UAPI_LINUX_KVM_EPT_VIEW_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* KVM_CHECK_EXTENSION: the rights that templates can have on this host, or 0. */
#define KVM_CAP_EPT_VIEW		0x45505401

/* KVM_CHECK_EXTENSION: how many bells a template can have on this host, or 0. */
#define KVM_CAP_EPT_VIEW_BELLS		0x45505402

/* kvm_run.exit_reason, payload struct kvm_ept_view_exit. */
#define KVM_EXIT_EPT_VIEW		0x4550

/* Services side by side on one vCPU, each with a gate of its own. */
#define KVM_EPT_VIEW_SLOTS		8

/* Guest-virtual layout, the same in every guest and for every slot. */
#define KVM_EPT_VIEW_GATE_GVA		0x0000100040403000ULL
#define KVM_EPT_VIEW_LIST_GVA		(KVM_EPT_VIEW_GATE_GVA + 0x06060000ULL)
#define KVM_EPT_VIEW_STACK_GVA		0x0000100047800000ULL
#define KVM_EPT_VIEW_STACK_SIZE		0x4000ULL
#define KVM_EPT_VIEW_CALL_GVA		(KVM_EPT_VIEW_STACK_GVA + 0x5000ULL)
/* What KVM_EPT_VIEW_MAP may map lies in [MAP_GVA, MAP_GVA_END). */
#define KVM_EPT_VIEW_MAP_GVA		0x0000100050000000ULL
#define KVM_EPT_VIEW_MAP_GVA_END	0x0000108000000000ULL

/* Guest-physical range that only views use; no memory slot may touch it. */
#define KVM_EPT_VIEW_GPA		0x0000004000000000ULL
#define KVM_EPT_VIEW_GPA_SIZE		0x0000001000000000ULL

/* Indices of the EPTP list. */
#define KVM_EPT_VIEW_INDEX_DEFAULT	0
#define KVM_EPT_VIEW_INDEX_GATE(slot)	(1 + (slot))
/* Initializer of an array: the index of each slot's service view. */
#define KVM_EPT_VIEW_INDICES_SERVICE	\
	{ 0xcc, 0x92, 0x95, 0x96, 0xa8, 0xb2, 0xb5, 0xb6 }

/* RAX of a VMCALL to the service attached at a slot by RIGHT_HYPERCALL. */
#define KVM_EPT_VIEW_HC(slot)		(0x504f5354 + (slot))

/* The page at KVM_EPT_VIEW_CALL_GVA, private to an attachment. */
struct kvm_ept_view_call {
	__u64 saved_rsp;
	__u32 member;
	__u32 note;
	__u32 reserved[12];
	__u64 caller[8];
};

/* KVM_CREATE_EPT_VIEW, on /dev/kvm; returns a template fd. */
struct kvm_create_ept_view {
	__u32 flags;
	__u32 reserved[3];
};

#define KVM_EPT_VIEW_READ		(1 << 0)
#define KVM_EPT_VIEW_WRITE		(1 << 1)
#define KVM_EPT_VIEW_EXEC		(1 << 2)

/* KVM_EPT_VIEW_MAP, on a template fd. */
struct kvm_ept_view_map {
	__u64 gva;
	__u64 user_addr;
	__u64 size;
	__u32 prot;
	__u32 flags;
	__u64 reserved[2];
};

#define KVM_EPT_VIEW_MAX_BELLS		256

/* KVM_EPT_VIEW_BELLS, on a template fd. */
struct kvm_ept_view_bells {
	__u64 fds;
	__u32 bells;
	__u32 flags;
	__u64 reserved[2];
};

/* How a service may be called. */
#define KVM_EPT_VIEW_RIGHT_FAST		(1 << 0)
#define KVM_EPT_VIEW_RIGHT_STRICT	(1 << 1)
#define KVM_EPT_VIEW_RIGHT_HYPERCALL	(1 << 2)

/* KVM_EPT_VIEW_SEAL, on a template fd. */
struct kvm_ept_view_seal {
	__u32 rights;
	__u32 flags;
	__u64 entry_gva;
	__u64 data_gva;
	__u64 data_size;
	__u64 reserved[4];
};

#define KVM_EPT_VIEW_MAX_MEMBERS	1024

/* KVM_EPT_VIEW_GRANT, on a template fd; returns a grant fd. */
struct kvm_ept_view_grant {
	__u64 id;
	__u32 rights;
	__u32 members;
	__u64 caller[8];
	__u32 flags;
	__u32 reserved[11];
};

/* KVM_EPT_VIEW_REVOKE, on a template fd; returns how many grants it was. */
struct kvm_ept_view_revoke {
	__u64 id;
	__u32 flags;
	__u32 reserved[5];
};

/* KVM_GET_EPT_VIEW_INFO, on a template fd. */
struct kvm_ept_view_info {
	__u64 pinned_bytes;
	__u64 kernel_bytes;
	__u64 attachment_bytes;
	__u64 bytes_in_2m;
	__u32 grants;
	__u32 attachments;
	__u64 reserved[3];
};

#define KVM_EPT_VIEW_EXIT_ON_ABORT	(1 << 0)

/* KVM_ATTACH_EPT_VIEW, on a vCPU fd. */
struct kvm_attach_ept_view {
	__s32 grant_fd;
	__u32 slot;
	__u32 member;
	__u32 right;
	__u32 flags;
	__u32 reserved[3];
};

/* KVM_DETACH_EPT_VIEW, on a vCPU fd. */
struct kvm_detach_ept_view {
	__u32 slot;
	__u32 flags;
	__u32 reserved[2];
};

/* KVM_GET_EPT_VIEW_STATS, on a vCPU fd; slot and flags are read, all else written. */
struct kvm_ept_view_stats {
	__u32 slot;
	__u32 flags;
	__u64 aborts;
	__u64 deferred_leaves;
	__u64 exits_in_view;
	__u64 hypercalls;
	__u32 revoked;
	__u32 armed;
	__u64 bells;
	__u64 reserved;
};

/* At the start of kvm_run's union on KVM_EXIT_EPT_VIEW. */
struct kvm_ept_view_exit {
	__u32 view;
	__u32 exit_reason;
	__u64 qualification;
	__u64 gpa;
	__u64 gva;
	__u64 rip;
};

/* exit_reason, in the tracepoint, of an abort that no VM exit caused. */
#define KVM_EPT_VIEW_ABORT_IOCTL	0x45500001
#define KVM_EPT_VIEW_ABORT_INIT		0x45500002
#define KVM_EPT_VIEW_ABORT_REVOKE	0x45500003
#define KVM_EPT_VIEW_ABORT_DETACH	0x45500004

#define KVM_EPT_VIEW_IO			0xAE

#define KVM_CREATE_EPT_VIEW	_IOW(KVM_EPT_VIEW_IO, 0xf0, struct kvm_create_ept_view)
#define KVM_EPT_VIEW_MAP	_IOW(KVM_EPT_VIEW_IO, 0xf1, struct kvm_ept_view_map)
#define KVM_EPT_VIEW_SEAL	_IOW(KVM_EPT_VIEW_IO, 0xf2, struct kvm_ept_view_seal)
#define KVM_ATTACH_EPT_VIEW	_IOW(KVM_EPT_VIEW_IO, 0xf3, struct kvm_attach_ept_view)
#define KVM_DETACH_EPT_VIEW	_IOW(KVM_EPT_VIEW_IO, 0xf4, struct kvm_detach_ept_view)
#define KVM_GET_EPT_VIEW_STATS	_IOWR(KVM_EPT_VIEW_IO, 0xf5, struct kvm_ept_view_stats)
#define KVM_EPT_VIEW_GRANT	_IOW(KVM_EPT_VIEW_IO, 0xf6, struct kvm_ept_view_grant)
#define KVM_EPT_VIEW_REVOKE	_IOW(KVM_EPT_VIEW_IO, 0xf7, struct kvm_ept_view_revoke)
#define KVM_GET_EPT_VIEW_INFO	_IOR(KVM_EPT_VIEW_IO, 0xf8, struct kvm_ept_view_info)
#define KVM_EPT_VIEW_BELLS	_IOW(KVM_EPT_VIEW_IO, 0xf9, struct kvm_ept_view_bells)

#endif /* _UAPI_LINUX_KVM_EPT_VIEW_H */
