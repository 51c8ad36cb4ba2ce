/* SPDX-License-Identifier: GPL-2.0 */
/*
 * EPT views.
 *
 * struct ept_view             a template: the pages of a service, its page
 *                             tables and the part of its EPT that all vCPUs
 *                             share.  Immutable once sealed.   (ept_view.c)
 * struct ept_view_grant       who may attach the template, how, and as whom;
 *                             can be revoked.            (ept_view_grant.c)
 * struct ept_view_attachment  a member of a grant at a slot of a vCPU: call
 *                             page, stack and the private part of the gate's
 *                             and the service's hierarchy.
 *                                                         (ept_view_vcpu.c)
 * struct ept_view_vcpu        a vCPU with attachments: EPTP list, what is
 *                             armed, what is active.      (ept_view_vcpu.c)
 * struct ept_gate             the gate views' constant part, one in the
 *                             system, and all code that the kernel puts into
 *                             views.                      (ept_view_code.c)
 *
 * Guest-physical addresses in a view:
 *
 *   KVM_EPT_VIEW_GPA            private to the attachment, enum ept_view_place
 *   KVM_EPT_VIEW_GPA + 1 GiB    shared frames: what was mapped, page tables
 *   everything else             the root of the view's page tables, read-only,
 *                               whatever the guest's CR3 says
 *
 * Locks, in the order in which they are taken:
 *
 *   vcpu->mutex              everything in struct ept_view_vcpu, and which
 *                            attachment is at which slot
 *   kvm->slots_lock          kvm_vmx.ept_views_reserved
 *   ept_view.lock            the template until it is sealed; the list of its
 *                            grants
 *   ept_view_grant.lock      which members are attached, and that the grant is
 *                            revoked: what is attached stays allocated while
 *                            it is held
 */
#ifndef __KVM_X86_VMX_EPT_VIEW_H
#define __KVM_X86_VMX_EPT_VIEW_H

#include <linux/completion.h>
#include <linux/kvm_host.h>
#include <linux/percpu-refcount.h>
#include <linux/sizes.h>
#include <linux/wait.h>
#include <linux/xarray.h>

#include <asm/vmx.h>

#include <linux/kvm_ept_view.h>

/* Pages at the start of the reserved range, one set for each attachment. */
enum ept_view_place {
	EPT_VIEW_PLACE_CODE,		/* gate, or entry stub */
	EPT_VIEW_PLACE_LIST,
	EPT_VIEW_PLACE_CALL,
	EPT_VIEW_PLACE_STACK = 4,
	EPT_VIEW_PLACE_GATE_TABLES = 16, /* the gate's own page tables */
	EPT_VIEW_PLACE_GATE_TABLES_END = 32,
};

/* Words of 64 bits that have one bit for each bell. */
#define EPT_VIEW_BELL_WORDS	(KVM_EPT_VIEW_MAX_BELLS / 64)

#define EPT_VIEW_STACK_PAGES	(KVM_EPT_VIEW_STACK_SIZE / PAGE_SIZE)
#define EPT_VIEW_PLACE_GPA(place) \
	(KVM_EPT_VIEW_GPA + (u64)(place) * PAGE_SIZE)

#define EPT_VIEW_FRAME_GPA	(KVM_EPT_VIEW_GPA + SZ_1G)
#define EPT_VIEW_MAX_FRAMES	((KVM_EPT_VIEW_GPA_SIZE - SZ_1G) / PAGE_SIZE)
#define EPT_VIEW_FRAME_PDS	(KVM_EPT_VIEW_GPA_SIZE / SZ_1G - 1)

/* The rights by which a view is entered. */
#define EPT_VIEW_ENTER_RIGHTS \
	(KVM_EPT_VIEW_RIGHT_FAST | KVM_EPT_VIEW_RIGHT_STRICT)

/* Guest page tables that the kernel makes for a view. */
struct ept_view_pt {
	struct page *root;
	struct xarray tables;	/* lower levels, by guest frame number */
	u64 next_gpa;		/* of the next table */
};

/* EPT tables through which all of guest-physical memory leads to one root. */
struct ept_view_elsewhere {
	u64 *pdpt;
	u64 *pd;
};

/* Code pages of a slot, by how it is entered: fast, strict. */
struct ept_view_code {
	struct page *page[2];
};

struct ept_gate {
	struct list_head pages;	/* all pages below */
	struct ept_view_pt pt;
	struct ept_view_elsewhere elsewhere;
	struct ept_view_code code[KVM_EPT_VIEW_SLOTS];
};

struct ept_view {
	struct mutex lock;		/* see above */
	bool sealed;
	u32 rights;
	u64 entry;
	struct list_head ranges;	/* struct ept_view_range */
	unsigned int nr_ranges;
	u64 nr_pinned;			/* pages of user space */
	u64 nr_in_2m;			/* ... that EPT maps by 2 MiB pages */
	struct list_head pages;		/* all pages that the kernel made */
	u64 nr_frames;
	struct ept_view_pt pt;
	struct ept_view_elsewhere elsewhere;
	u64 *frame_pd[EPT_VIEW_FRAME_PDS];
	struct ept_view_code stub[KVM_EPT_VIEW_SLOTS];
	u64 nr_made;			/* pages, once it is sealed */
	void *data;			/* the service's data, in the kernel */
	u64 data_gva;
	u64 data_size;
	struct eventfd_ctx **bells;	/* NULL if it has none */
	u32 nr_bells;
	struct list_head grants;	/* struct ept_view_grant */
	atomic_t nr_ending;		/* revoked grants with hypercalls */
	wait_queue_head_t ended;
};

struct ept_view_grant {
	/* The service reads the words as an object with this alignment. */
	u64 caller[8] __aligned(64);
	struct file *view_file;		/* keeps the template */
	struct ept_view *view;
	struct list_head link;		/* in ept_view.grants */
	u64 id;
	u32 rights;
	struct mutex lock;		/* see above */
	bool revoked;
	struct percpu_ref calls;	/* hypercalls; killed when revoked */
	struct completion idle;		/* no hypercall is left */
	u32 nr_members;
	struct ept_view_attachment *members[];
};

struct ept_view_attachment {
	struct kvm_vcpu *vcpu;
	struct file *file;		/* keeps the grant, and the module */
	struct ept_view_grant *grant;
	unsigned int slot;
	u32 member;
	u32 right;
	u32 flags;
	bool revoked;			/* cannot be entered any more */
	u64 gate_eptp;
	u64 service_eptp;
	struct kvm_ept_view_call *call;
	struct list_head pages;		/* all pages made for it */
	struct kvm_ept_view_stats stats;
};

/*
 * What an attachment takes: two hierarchies of four tables, call page and
 * stack; and, once a vCPU, the EPTP list.
 */
#define EPT_VIEW_ATTACHMENT_PAGES	(2 * 4 + 1 + EPT_VIEW_STACK_PAGES + 1)

static inline unsigned int ept_view_code_index(u32 right)
{
	return right == KVM_EPT_VIEW_RIGHT_STRICT;
}

/* ept_view_code.c */
struct page *ept_view_make_gate(struct list_head *pages, u32 right,
				unsigned int slot);
struct page *ept_view_make_stub(struct list_head *pages, u32 right,
				unsigned int slot, u64 entry);
bool ept_view_entry_in_reach(u64 entry);
unsigned int ept_view_stub_saved_rsp_at(u32 right);

/* ept_view.c */
extern struct ept_gate ept_gate;
struct page *ept_view_alloc_page(struct list_head *pages);
void ept_view_free_pages(struct list_head *pages);
u64 ept_view_table(u64 *table);
u64 ept_view_leaf(struct page *page, u32 prot);
u32 vmx_ept_view_rights(void);
int vmx_ept_view_create(void __user *argp);
int vmx_ept_view_setup(void);
void vmx_ept_view_unsetup(void);

/* ept_view_grant.c */
int ept_view_make_grant(struct file *view_file, struct ept_view *view,
			struct kvm_ept_view_grant *arg);
int ept_view_revoke(struct ept_view *view, struct kvm_ept_view_revoke *arg);
int ept_view_wait_revoked(struct ept_view *view);
void ept_view_count_grants(struct ept_view *view, struct kvm_ept_view_info *info);
struct ept_view_grant *ept_view_grant_from_file(struct file *file);
int ept_view_claim_member(struct ept_view_grant *grant, u32 member,
			  struct ept_view_attachment *att);
void ept_view_release_member(struct ept_view_grant *grant, u32 member);

/* ept_view_bells.c */
int ept_view_set_bells(struct ept_view *view, struct kvm_ept_view_bells *arg);
void ept_view_drop_bells(struct ept_view *view);
u32 ept_view_ring(struct ept_view *view, const u64 *bits);

/* ept_view_hypercall.c: the service, as far as it is built into the module. */
bool ept_view_has_service(void);
bool ept_view_service_returns_by_thunks(void);
int ept_view_service_size(const u64 *caller, u64 *size);
u64 ept_view_service_call(void *data, const u64 *caller, u32 member, u64 op,
			  u64 arg0, u64 arg1);
void ept_view_service_take_bells(void *data, const u64 *caller, u64 arg1,
				 u64 *bits);

/*
 * The object that is linked in as the service.  Whatever the guest or the data
 * hold, it stays inside postern_nic_size() bytes of the data.  That is 0 if the
 * words are not those of a caller, and then it must not be called.  The words
 * are aligned to 64 bytes and never change.  A call ends after a bounded number
 * of bytes.
 *
 * If a result's highest bit is EPT_VIEW_RESULT_BELLS, bells are to be rung, and
 * without the bit it is the result as if there were none.  The bells are taken
 * by the call's last argument; their bits go to KVM_EPT_VIEW_MAX_BELLS bits.
 */
#define EPT_VIEW_RESULT_BELLS	BIT_ULL(33)

static inline bool ept_view_result_has_bells(u64 result)
{
	return result / EPT_VIEW_RESULT_BELLS == 1;
}

u64 postern_nic_size(const u64 *caller);
u64 postern_nic_call(void *data, const u64 *caller, u32 member, u64 op,
		     u64 arg0, u64 arg1);
void postern_nic_take_bells(void *data, const u64 *caller, u64 arg1, u64 *bits);

#endif /* __KVM_X86_VMX_EPT_VIEW_H */
