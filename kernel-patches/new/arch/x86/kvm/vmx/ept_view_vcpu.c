// SPDX-License-Identifier: GPL-2.0
/*
 * EPT views attached to vCPUs: when they can be entered, what happens to VM
 * exits and events while one is active, and how a call ends that went wrong.
 *
 * While views are attached, EPT_POINTER belongs to the guest as well: VMFUNC
 * rewrites it.  KVM looks at it after every exit and from then on knows the
 * active view.  Everything here runs with the vCPU loaded and under its mutex,
 * so nobody else touches the EPTP list.
 */
#include <linux/file.h>
#include <linux/nospec.h>
#include <linux/kvm_host.h>

#include <asm/fpu/api.h>

#include "cpuid.h"
#include "ept_view_vcpu.h"
#include "irq.h"
#include "mmu.h"
#include "nested.h"
#include "pmu.h"
#include "trace.h"
#include "x86_ops.h"

/* An EPTP with a reserved bit: VMFUNC to such an entry exits. */
#define EPTP_INVALID		BIT_ULL(63)
#define NR_EPTPS		512

/*
 * How many exits a call may outlast while an event of the guest waits for it.
 * At one a host tick this is far more than any service needs.
 */
#define MAX_DEFERRED_EXITS	1000

/*
 * CR4 bits that may be set while views are armed.  What is missing changes how
 * addresses are translated or events delivered (PCIDE, LA57, UINTR, FRED, CET,
 * PKS) or is unknown.
 */
#define CR4_ALLOWED	(X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD |	\
			 X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE |	\
			 X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE |	\
			 X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT |		\
			 X86_CR4_UMIP | X86_CR4_FSGSBASE |		\
			 X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP | \
			 X86_CR4_PKE)
#define CR4_REQUIRED	(X86_CR4_PAE | X86_CR4_SMEP | X86_CR4_SMAP)

/* DR7 and DEBUGCTL would show a service instruction by instruction. */
#define DR7_ENABLES		0xff
#define DEBUGCTL_FORBIDDEN	(DEBUGCTLMSR_LBR | DEBUGCTLMSR_BTF)

/* Turned off late, so that attaching and detaching does not patch code each time. */
DEFINE_STATIC_KEY_DEFERRED_FALSE(ept_views_in_use, HZ);

static const u32 service_index[] = KVM_EPT_VIEW_INDICES_SERVICE;

/* Which hierarchy VMFUNC has put into EPT_POINTER, as of the last exit. */
struct active_view {
	struct ept_view_attachment *att;	/* NULL: the default view */
	bool service;				/* not its gate */
};

/* What vmx_ept_view_handle_exit() has to do. */
enum verdict {
	VERDICT_RESUME,
	VERDICT_REPORT,		/* return to user space */
	VERDICT_UD,
	VERDICT_HYPERCALL,
};

struct ept_view_vcpu {
	struct ept_view_attachment *slots[KVM_EPT_VIEW_SLOTS];
	unsigned int nr_attached;
	unsigned int nr_enterable;	/* that are entered by VMFUNC */
	bool cpuid_allowed;		/* see cpuid_allows_views() */
	bool armed;			/* VMFUNC is on */
	bool leave_pending;		/* the return to the default view exits */
	unsigned int nr_deferred;	/* exits since then */
	bool flush_guest;		/* drop cached guest translations */
	bool flush_views;		/* drop what is cached under views' roots */
	struct active_view active;
	enum verdict verdict;
	unsigned int hypercall_slot;
	struct kvm_ept_view_exit report;
	u64 default_eptp;		/* or EPTP_INVALID */
	struct page *list_page;
	u64 *list;
};

static struct ept_view_vcpu *to_views(struct kvm_vcpu *vcpu)
{
	return to_vmx(vcpu)->ept_views;
}

static bool view_active(struct ept_view_vcpu *views)
{
	return views->active.att;
}

static bool is_enterable(struct ept_view_attachment *att)
{
	return att->right & EPT_VIEW_ENTER_RIGHTS;
}

/* ---- EPTP list ---- */

/*
 * A slot's entries as they are outside a call: its gate, and its service's view
 * made invalid by the bit that the gate clears.
 */
static void set_slot_entries(struct ept_view_vcpu *views, unsigned int slot)
{
	struct ept_view_attachment *att = views->slots[slot];
	u64 gate = EPTP_INVALID, service = EPTP_INVALID;

	if (att && is_enterable(att) && !att->revoked) {
		gate = att->gate_eptp;
		service = att->service_eptp | EPTP_INVALID;
	}
	views->list[KVM_EPT_VIEW_INDEX_GATE(slot)] = gate;
	views->list[service_index[slot]] = service;
}

/* Every entry, since code of a view that is entered fast can write them all. */
static void reset_list(struct ept_view_vcpu *views)
{
	unsigned int i;

	BUILD_BUG_ON(ARRAY_SIZE(service_index) != KVM_EPT_VIEW_SLOTS);
	for (i = 0; i < NR_EPTPS; i++)
		views->list[i] = EPTP_INVALID;
	for (i = 0; i < KVM_EPT_VIEW_SLOTS; i++)
		set_slot_entries(views, i);
	views->list[KVM_EPT_VIEW_INDEX_DEFAULT] = views->default_eptp;
	views->leave_pending = false;
}

/* What a call that ends as it should has changed: the entry for the return. */
static void restore_default_entry(struct ept_view_vcpu *views)
{
	views->list[KVM_EPT_VIEW_INDEX_DEFAULT] = views->default_eptp;
	views->leave_pending = false;
}

static void activate_default_view(struct ept_view_vcpu *views)
{
	vmcs_write64(EPT_POINTER, views->default_eptp);
	views->active.att = NULL;
}

/*
 * Make the VMFUNC that returns from the call exit.  An interrupt window cannot
 * be used: with RFLAGS.IF set it would open at once, inside the view.
 */
static void request_leave(struct ept_view_vcpu *views)
{
	if (!views->leave_pending)
		views->nr_deferred = 0;
	views->leave_pending = true;
	views->list[KVM_EPT_VIEW_INDEX_DEFAULT] |= EPTP_INVALID;
}

void vmx_ept_view_load_root(struct kvm_vcpu *vcpu, u64 eptp)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	/*
	 * A CR3 that KVM writes is not followed by what a MOV to CR3 in the
	 * guest invalidates.
	 */
	if (kvm_register_is_dirty(vcpu, VCPU_EXREG_CR3))
		views->flush_guest = true;
	views->default_eptp = eptp;
	views->list[KVM_EPT_VIEW_INDEX_DEFAULT] =
		eptp | (views->leave_pending ? EPTP_INVALID : 0);
	if (!view_active(views))
		vmcs_write64(EPT_POINTER, eptp);
}

/* ---- When views are armed ---- */

/* By what it is told, although KVM may give it none: the host can lack a PMU. */
static bool guest_has_counters(struct kvm_vcpu *vcpu)
{
	struct kvm_cpuid_entry2 *entry = kvm_find_cpuid_entry(vcpu, 0xa);

	return entry && (entry->eax & 0xff);
}

/*
 * With PCID, a CR3 load need not walk the view's tables anew.  With PDCM, the
 * guest could have the CPU record what happens in a view (LBR), or store
 * records there (PEBS), and with a PMU count it.  With LAM, CR3 has bits that
 * change how a service's addresses are taken.  And the reserved range must
 * exist for the guest.
 */
static bool cpuid_allows_views(struct kvm_vcpu *vcpu)
{
	const u64 last = KVM_EPT_VIEW_GPA + KVM_EPT_VIEW_GPA_SIZE - 1;

	return !guest_cpuid_has(vcpu, X86_FEATURE_PCID) &&
	       !guest_cpuid_has(vcpu, X86_FEATURE_PDCM) &&
	       !guest_cpuid_has(vcpu, X86_FEATURE_LAM) &&
	       !intel_pmu_lbr_is_enabled(vcpu) &&
	       !guest_has_counters(vcpu) &&
	       !vcpu_to_pmu(vcpu)->pebs_enable &&
	       cpuid_maxphyaddr(vcpu) >= fls64(last);
}

static bool debug_allows_views(struct kvm_vcpu *vcpu)
{
	return !(vcpu->arch.dr7 & DR7_ENABLES) && !vcpu->guest_debug &&
	       !(vmcs_read64(GUEST_IA32_DEBUGCTL) & DEBUGCTL_FORBIDDEN);
}

static bool mode_allows_views(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	unsigned long cr4 = vcpu->arch.cr4;

	return views->nr_enterable && views->cpuid_allowed &&
	       (vcpu->arch.efer & EFER_LMA) &&
	       (vcpu->arch.cr0 & (X86_CR0_PG | X86_CR0_PE)) ==
			(X86_CR0_PG | X86_CR0_PE) &&
	       (cr4 & CR4_REQUIRED) == CR4_REQUIRED && !(cr4 & ~CR4_ALLOWED) &&
	       (views->default_eptp & VMX_EPTP_PWL_MASK) == VMX_EPTP_PWL_4 &&
	       !(views->default_eptp & EPTP_INVALID) &&
	       !is_smm(vcpu) && !is_guest_mode(vcpu) &&
	       !to_vmx(vcpu)->nested.vmxon && debug_allows_views(vcpu);
}

/* KVM itself wants VMFUNC on for nested guests only, where it is emulated. */
static void set_armed(struct kvm_vcpu *vcpu, bool arm)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	if (arm) {
		vmcs_write64(EPTP_LIST_ADDRESS, page_to_phys(views->list_page));
		secondary_exec_controls_setbit(to_vmx(vcpu),
					       SECONDARY_EXEC_ENABLE_VMFUNC);
		/*
		 * The view's tables must be walked anew: the guest may have
		 * cached translations of its own in another paging mode.
		 */
		views->flush_guest = true;
	} else {
		secondary_exec_controls_clearbit(to_vmx(vcpu),
						 SECONDARY_EXEC_ENABLE_VMFUNC);
	}
	vmcs_write64(VM_FUNCTION_CONTROL, arm ? VMX_VMFUNC_EPTP_SWITCHING : 0);
	views->armed = arm;
}

/*
 * The CPU may have cached translations under the page of a root when the page
 * was another root, since no root is invalidated when it is freed, as KVM's own
 * are not.  So a new one is invalidated before it is first used on this CPU; on
 * any other CPU vmx_vcpu_load_vmcs() invalidates all before the vCPU runs there.
 */
static void flush_views(struct ept_view_vcpu *views)
{
	struct ept_view_attachment *att;
	unsigned int i;

	for (i = 0; i < KVM_EPT_VIEW_SLOTS; i++) {
		att = views->slots[i];
		if (!att || !is_enterable(att))
			continue;
		ept_sync_context(att->gate_eptp);
		ept_sync_context(att->service_eptp);
	}
	views->flush_views = false;
}

void vmx_ept_view_cpuid_changed(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	views->cpuid_allowed = cpuid_allows_views(vcpu) &&
			       !guest_cpu_cap_has(vcpu, X86_FEATURE_VMX);
	/* The controls were computed anew. */
	if (views->armed)
		set_armed(vcpu, false);
}

/* ---- Abort ---- */

/* The service's view is active and has saved the caller's stack pointer. */
static bool rsp_is_saved(struct kvm_vcpu *vcpu)
{
	struct active_view *active = &to_views(vcpu)->active;
	u64 offset = kvm_rip_read(vcpu) - KVM_EPT_VIEW_GATE_GVA;

	return active->service &&
	       (offset >= PAGE_SIZE ||
		offset >= ept_view_stub_saved_rsp_at(active->att->right));
}

/*
 * The caller's stack pointer: neither the view's own must be seen, nor that of
 * an earlier caller.
 */
static u64 caller_rsp(struct kvm_vcpu *vcpu)
{
	return rsp_is_saved(vcpu) ?
	       READ_ONCE(to_views(vcpu)->active.att->call->saved_rsp) :
	       kvm_rsp_read(vcpu);
}

/*
 * Where the guest's own VMFUNC stands, at the end of page A.  Code in
 * compatibility mode cannot be there, and VM entry would fail with such a RIP.
 */
static u64 caller_rip(struct kvm_vcpu *vcpu)
{
	u64 rip = KVM_EPT_VIEW_GATE_GVA - 3;

	return is_64_bit_mode(vcpu) ? rip : lower_32_bits(rip);
}

#define ABORT_RFLAGS	(X86_EFLAGS_IF | X86_EFLAGS_IOPL | X86_EFLAGS_ID)

/*
 * Whoever calls from CPL 0 dies in the gate.  So the service itself has gone
 * there, by SYSCALL or SYSENTER, which need no memory.
 */
static bool service_left_cpl3(struct kvm_vcpu *vcpu)
{
	return to_views(vcpu)->active.service && vmx_get_cpl(vcpu) != 3;
}

static unsigned long caller_rflags(struct kvm_vcpu *vcpu)
{
	unsigned long rflags = vmx_get_rflags(vcpu) & ABORT_RFLAGS;

	if (service_left_cpl3(vcpu))
		rflags |= X86_EFLAGS_IF;
	return rflags | X86_EFLAGS_FIXED;
}

/* As SYSRET would: what the service may have made of them must not stay. */
static void restore_user_segments(struct kvm_vcpu *vcpu)
{
	struct vmx_uret_msr *star = vmx_find_uret_msr(to_vmx(vcpu), MSR_STAR);
	u16 base = star ? star->data >> 48 : 0;
	struct kvm_segment segment = {
		.selector = (base + 16) | 3,
		.limit = ~0u,
		.type = 11,
		.present = 1,
		.dpl = 3,
		.s = 1,
		.l = 1,
		.g = 1,
	};

	__vmx_set_segment(vcpu, &segment, VCPU_SREG_CS);
	segment.selector = (base + 8) | 3;
	segment.type = 3;
	segment.l = 0;
	segment.db = 1;
	__vmx_set_segment(vcpu, &segment, VCPU_SREG_SS);
}

/* The components of XSAVE with vector registers, but for XMM. */
static const unsigned int vector_components[] = {
	XFEATURE_YMM, XFEATURE_OPMASK, XFEATURE_ZMM_Hi256, XFEATURE_Hi16_ZMM,
};

/*
 * The CPU has the guest's registers behind an exit, and memory has them in an
 * ioctl.  So have them saved, and loaded anew before the guest runs.
 */
static void clear_vector_registers(struct kvm_vcpu *vcpu)
{
	struct fpstate *fps = vcpu->arch.guest_fpu.fpstate;
	unsigned int i;

	kernel_fpu_begin();
	memset(fps->regs.fxsave.xmm_space, 0,
	       sizeof(fps->regs.fxsave.xmm_space));
	for (i = 0; i < ARRAY_SIZE(vector_components); i++) {
		if (fps->xfeatures & BIT_ULL(vector_components[i]))
			fpstate_clear_xstate_component(fps,
						       vector_components[i]);
	}
	kernel_fpu_end();
}

static u32 active_index(struct ept_view_vcpu *views)
{
	unsigned int slot = views->active.att->slot;

	return views->active.service ? service_index[slot] :
				       KVM_EPT_VIEW_INDEX_GATE(slot);
}

/* What is to be said of an abort for this reason, before its addresses. */
static void begin_report(struct kvm_vcpu *vcpu, u32 reason,
			 struct kvm_ept_view_exit *e)
{
	memset(e, 0, sizeof(*e));
	e->view = active_index(to_views(vcpu));
	e->exit_reason = reason;
	e->rip = kvm_rip_read(vcpu);
}

static void count_abort(struct kvm_vcpu *vcpu,
			const struct kvm_ept_view_exit *e)
{
	to_views(vcpu)->active.att->stats.aborts++;
	++vcpu->stat.view_aborts;
	trace_kvm_ept_view_abort(vcpu->vcpu_id, e->view, e->exit_reason,
				 e->gpa, e->gva, e->rip);
}

/*
 * Put the vCPU back where the call was made, with nothing of the view left in
 * it.  One function for every reason, and never half of it.
 */
static void abort_call(struct kvm_vcpu *vcpu, const struct kvm_ept_view_exit *e)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	struct ept_view_attachment *att = views->active.att;
	u64 rsp = caller_rsp(vcpu), rip = caller_rip(vcpu);
	unsigned long rflags = caller_rflags(vcpu);
	int i;

	count_abort(vcpu, e);
	if (service_left_cpl3(vcpu))
		restore_user_segments(vcpu);
	reset_list(views);
	activate_default_view(views);
	att->call->saved_rsp = 0;

	for (i = 0; i < NR_VCPU_REGS; i++) {
		if (i != VCPU_REGS_RIP && i != VCPU_REGS_RSP)
			kvm_register_write_raw(vcpu, i, 0);
	}
	kvm_rsp_write(vcpu, rsp);
	kvm_rip_write(vcpu, rip);
	vmx_set_rflags(vcpu, rflags);
	vcpu->arch.cr2 = 0;
	clear_vector_registers(vcpu);

	vmcs_write32(GUEST_INTERRUPTIBILITY_INFO,
		     vmcs_read32(GUEST_INTERRUPTIBILITY_INFO) &
		     GUEST_INTR_STATE_NMI);
	vmcs_write32(GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE);
	vmcs_writel(GUEST_PENDING_DBG_EXCEPTIONS, 0);
	vmcs_write32(VM_ENTRY_INTR_INFO_FIELD, 0);
	kvm_clear_exception_queue(vcpu);
	kvm_clear_interrupt_queue(vcpu);
	vcpu->arch.nmi_injected = false;
	kvm_queue_exception(vcpu, UD_VECTOR);
}

/* The same for a reason that is no VM exit: there are no addresses. */
static void abort_call_without_exit(struct kvm_vcpu *vcpu, u32 reason)
{
	struct kvm_ept_view_exit e;

	begin_report(vcpu, reason, &e);
	abort_call(vcpu, &e);
}

/* State is about to be set: end a call that is under way. */
static void vmx_ept_view_abort(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	if (!views)
		return;
	/* Whatever user space is about to change, walk the tables anew. */
	views->flush_guest = true;
	if (view_active(views))
		abort_call_without_exit(vcpu, KVM_EPT_VIEW_ABORT_IOCTL);
}

/*
 * INIT sets all registers but the vector registers by itself, so only they have
 * to be cleared, and the view left.  It stays attached.
 */
void vmx_ept_view_reset(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	struct kvm_ept_view_exit e;

	if (!view_active(views))
		return;
	begin_report(vcpu, KVM_EPT_VIEW_ABORT_INIT, &e);
	count_abort(vcpu, &e);
	reset_list(views);
	views->active.att->call->saved_rsp = 0;
	activate_default_view(views);
	clear_vector_registers(vcpu);
}

/* A grant was revoked: leave its views, and make sure they stay left. */
static void vmx_ept_view_update(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	struct ept_view_attachment *att;
	unsigned int i;

	if (!views)
		return;
	for (i = 0; i < KVM_EPT_VIEW_SLOTS; i++) {
		att = views->slots[i];
		/* Pairs with the store in ept_view_revoke(). */
		if (!att || att->revoked || !READ_ONCE(att->grant->revoked))
			continue;
		att->revoked = true;
		if (views->active.att == att)
			abort_call_without_exit(vcpu, KVM_EPT_VIEW_ABORT_REVOKE);
		set_slot_entries(views, i);
	}
}

static bool vmx_ept_view_active(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	return views && view_active(views);
}

/* What user space sees of a call under way is what an abort would leave. */
static void vmx_ept_view_mask_regs(struct kvm_vcpu *vcpu, struct kvm_regs *regs)
{
	memset(regs, 0, sizeof(*regs));
	regs->rip = caller_rip(vcpu);
	regs->rsp = caller_rsp(vcpu);
	regs->rflags = caller_rflags(vcpu);
}

/*
 * Where the CPU has noted that a component is in its initial state, memory keeps
 * what was there when it last was not, which may have been during a call.
 */
static void vmx_ept_view_mask_fpu(struct kvm_vcpu *vcpu, struct kvm_fpu *fpu)
{
	struct xregs_state *xsave = &vcpu->arch.guest_fpu.fpstate->regs.xsave;
	struct ept_view_vcpu *views = to_views(vcpu);

	if (!views)
		return;
	if (view_active(views) ||
	    (boot_cpu_has(X86_FEATURE_XSAVE) &&
	     !(xsave->header.xfeatures & XFEATURE_MASK_SSE)))
		memset(fpu->xmm, 0, sizeof(fpu->xmm));
}

/* @state is in the standard format of XSAVE. */
static void vmx_ept_view_mask_xsave(struct kvm_vcpu *vcpu, u8 *state,
				    unsigned int size)
{
	struct fxregs_state *fxsave = (struct fxregs_state *)state;
	u64 has = vcpu->arch.guest_fpu.fpstate->xfeatures;
	u32 bytes, offset, ecx, edx;
	unsigned int i;

	if (!vmx_ept_view_active(vcpu))
		return;
	memset(fxsave->xmm_space, 0, sizeof(fxsave->xmm_space));
	for (i = 0; i < ARRAY_SIZE(vector_components); i++) {
		if (!(has & BIT_ULL(vector_components[i])))
			continue;
		cpuid_count(0xd, vector_components[i], &bytes, &offset, &ecx,
			    &edx);
		if (offset + bytes <= size)
			memset(state + offset, 0, bytes);
	}
}

/* ---- Before VM entry, after VM exit ---- */

/* Nothing can be said of this VM any more.  Its next exit is its last. */
static void end_vm(struct kvm_vcpu *vcpu)
{
	vcpu->kvm->vm_bugged = true;
	vcpu->kvm->vm_dead = true;
	kvm_make_request(KVM_REQ_VM_DEAD, vcpu);
}

void vmx_ept_view_before_entry(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	bool arm = mode_allows_views(vcpu);

	/*
	 * State only changes by exits, which end a call that was under way, or
	 * by ioctls, which do so first.
	 */
	if (!arm && WARN_ON_ONCE(view_active(views))) {
		abort_call_without_exit(vcpu, KVM_EPT_VIEW_ABORT_IOCTL);
		end_vm(vcpu);
		/* The registers were loaded before. */
		switch_fpu_return();
	}
	if (arm != views->armed)
		set_armed(vcpu, arm);
	if (!arm)
		return;
	if (views->flush_views)
		flush_views(views);
	if (views->flush_guest) {
		vpid_sync_context(to_vmx(vcpu)->vpid);
		views->flush_guest = false;
	}
}

static void find_active(struct ept_view_vcpu *views)
{
	u64 eptp = vmcs_read64(EPT_POINTER);
	struct ept_view_attachment *att;
	unsigned int i;

	views->active.att = NULL;
	views->active.service = false;
	if (eptp == views->default_eptp)
		return;
	for (i = 0; i < KVM_EPT_VIEW_SLOTS; i++) {
		att = views->slots[i];
		if (!att || !is_enterable(att) ||
		    (eptp != att->gate_eptp && eptp != att->service_eptp))
			continue;
		views->active.att = att;
		views->active.service = eptp == att->service_eptp;
		return;
	}
	/* Only the list's writers can have made another: a view entered fast. */
	for (i = 0; i < KVM_EPT_VIEW_SLOTS; i++) {
		att = views->slots[i];
		if (!att || att->right != KVM_EPT_VIEW_RIGHT_FAST)
			continue;
		views->active.att = att;
		views->active.service = true;
		return;
	}
	WARN_ON_ONCE(1);
	activate_default_view(views);
}

/* Exits that stock KVM handles without looking at the guest's state. */
static bool exit_is_harmless(struct kvm_vcpu *vcpu)
{
	/* An event whose delivery has begun is the view's own doing. */
	if (to_vmx(vcpu)->idt_vectoring_info & VECTORING_INFO_VALID_MASK)
		return false;

	switch (to_vmx(vcpu)->exit_reason.basic) {
	case EXIT_REASON_EXTERNAL_INTERRUPT:
	case EXIT_REASON_PREEMPTION_TIMER:
	case EXIT_REASON_PML_FULL:
	case EXIT_REASON_INTERRUPT_WINDOW:
	case EXIT_REASON_NMI_WINDOW:
		return true;
	case EXIT_REASON_EXCEPTION_NMI:
		/*
		 * Not a machine check: it has been handled, but the access in
		 * the view would only raise it again.
		 */
		return is_nmi(vmx_get_intr_info(vcpu));
	default:
		return false;
	}
}

/* The guest's event has waited long enough for a call that does not end. */
static bool call_is_overdue(struct ept_view_vcpu *views)
{
	return views->leave_pending &&
	       ++views->nr_deferred > MAX_DEFERRED_EXITS;
}

static bool exit_is_pending_leave(struct kvm_vcpu *vcpu)
{
	return to_views(vcpu)->leave_pending &&
	       to_vmx(vcpu)->exit_reason.basic == EXIT_REASON_VMFUNC &&
	       !(to_vmx(vcpu)->idt_vectoring_info & VECTORING_INFO_VALID_MASK) &&
	       (u32)kvm_rax_read(vcpu) == 0 &&
	       (u32)kvm_rcx_read(vcpu) == KVM_EPT_VIEW_INDEX_DEFAULT;
}

/* Do what the VMFUNC would have done; events are looked at on the way back. */
static void complete_leave(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	views->active.att->stats.deferred_leaves++;
	restore_default_entry(views);
	activate_default_view(views);
	kvm_rip_write(vcpu, kvm_rip_read(vcpu) +
			    vmcs_read32(VM_EXIT_INSTRUCTION_LEN));
	vmcs_write32(GUEST_INTERRUPTIBILITY_INFO,
		     vmcs_read32(GUEST_INTERRUPTIBILITY_INFO) &
		     ~(GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS));
	kvm_make_request(KVM_REQ_EVENT, vcpu);
}

static void make_report(struct kvm_vcpu *vcpu, struct kvm_ept_view_exit *e)
{
	begin_report(vcpu, to_vmx(vcpu)->exit_reason.basic, e);
	e->qualification = vmx_get_exit_qual(vcpu);
	if (e->exit_reason == EXIT_REASON_EPT_VIOLATION ||
	    e->exit_reason == EXIT_REASON_EPT_MISCONFIG)
		e->gpa = vmcs_read64(GUEST_PHYSICAL_ADDRESS);
	if (e->exit_reason == EXIT_REASON_EPT_VIOLATION &&
	    (e->qualification & EPT_VIOLATION_GVA_IS_VALID))
		e->gva = vmcs_readl(GUEST_LINEAR_ADDRESS);
}

/* The one place that every exit from a view passes, before any handler. */
static void judge_exit(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	views->verdict = VERDICT_RESUME;
	if (exit_is_pending_leave(vcpu)) {
		complete_leave(vcpu);
		return;
	}
	/* An interrupt or a machine check is the host's business as well. */
	if (vcpu->arch.xfd_no_write_intercept)
		fpu_sync_guest_vmexit_xfd_state();
	vmx_handle_exit_irqoff(vcpu);
	/* The CPU says that what the VMCS holds is not the guest's state. */
	if (to_vmx(vcpu)->exit_reason.basic == EXIT_REASON_NOTIFY &&
	    (vmx_get_exit_qual(vcpu) & NOTIFY_VM_CONTEXT_INVALID))
		end_vm(vcpu);
	make_report(vcpu, &views->report);
	if (views->active.att->flags & KVM_EPT_VIEW_EXIT_ON_ABORT)
		views->verdict = VERDICT_REPORT;
	abort_call(vcpu, &views->report);
}

static bool exit_is_hypercall(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	struct ept_view_attachment *att;
	unsigned long slot;

	if (to_vmx(vcpu)->exit_reason.basic != EXIT_REASON_VMCALL ||
	    is_guest_mode(vcpu))
		return false;
	slot = kvm_rax_read(vcpu) - KVM_EPT_VIEW_HC(0);
	if (slot >= KVM_EPT_VIEW_SLOTS)
		return false;
	slot = array_index_nospec(slot, KVM_EPT_VIEW_SLOTS);
	att = views->slots[slot];
	if (!att || att->right != KVM_EPT_VIEW_RIGHT_HYPERCALL)
		return false;
	views->verdict = VERDICT_HYPERCALL;
	views->hypercall_slot = slot;
	return true;
}

/*
 * A VMFUNC of the guest's that leads nowhere.  KVM's own handler takes it for
 * granted that only nested guests get there.
 */
static bool exit_is_refusal(struct kvm_vcpu *vcpu)
{
	if (to_vmx(vcpu)->exit_reason.basic != EXIT_REASON_VMFUNC ||
	    is_guest_mode(vcpu))
		return false;
	to_views(vcpu)->verdict = VERDICT_UD;
	return true;
}

bool vmx_ept_view_after_exit(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	if (views->armed)
		find_active(views);
	if (!view_active(views)) {
		if (!exit_is_hypercall(vcpu) && !exit_is_refusal(vcpu))
			return false;
	} else {
		views->active.att->stats.exits_in_view++;
		if (exit_is_harmless(vcpu) && !call_is_overdue(views))
			return false;
		judge_exit(vcpu);
		to_vmx(vcpu)->idt_vectoring_info = 0;
	}
	to_vmx(vcpu)->exit_reason.basic = EXIT_REASON_EPT_VIEW;
	return true;
}

static struct ept_view_attachment *hypercall_att(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	return views->slots[views->hypercall_slot];
}

/*
 * Rings what the request with this result asks for, if the template has bells:
 * then nothing is left to the guest.  Apart from all that most requests do.
 */
static noinline u64 ring_bells(struct kvm_vcpu *vcpu, u64 result)
{
	struct ept_view_attachment *att = hypercall_att(vcpu);
	struct ept_view_grant *grant = att->grant;
	u64 bits[EPT_VIEW_BELL_WORDS];

	if (!grant->view->nr_bells)
		return result;
	ept_view_service_take_bells(grant->view->data, grant->caller,
				    kvm_rdx_read(vcpu), bits);
	att->stats.bells += ept_view_ring(grant->view, bits);
	return result - EPT_VIEW_RESULT_BELLS;
}

/*
 * Any CPL may call: the request names nothing but the caller's own port, and
 * who may speak for that is up to the service.
 */
static int handle_hypercall(struct kvm_vcpu *vcpu)
{
	struct ept_view_attachment *att = hypercall_att(vcpu);
	struct ept_view_grant *grant = att->grant;
	u64 result;

	/* Fails once the grant is revoked, which waits for the calls that run. */
	if (!percpu_ref_tryget_live(&grant->calls)) {
		kvm_queue_exception(vcpu, UD_VECTOR);
		return 1;
	}
	att->stats.hypercalls++;
	++vcpu->stat.hypercalls;
	result = ept_view_service_call(grant->view->data, grant->caller,
				       att->member, kvm_rdi_read(vcpu),
				       kvm_rsi_read(vcpu), kvm_rdx_read(vcpu));
	if (unlikely(ept_view_result_has_bells(result)))
		result = ring_bells(vcpu, result);
	kvm_rax_write(vcpu, result);
	percpu_ref_put(&grant->calls);
	return kvm_skip_emulated_instruction(vcpu);
}

int vmx_ept_view_handle_exit(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	switch (views->verdict) {
	case VERDICT_UD:
		kvm_queue_exception(vcpu, UD_VECTOR);
		return 1;
	case VERDICT_HYPERCALL:
		return handle_hypercall(vcpu);
	case VERDICT_REPORT:
		BUILD_BUG_ON(sizeof(views->report) > sizeof(vcpu->run->padding));
		memcpy(vcpu->run->padding, &views->report,
		       sizeof(views->report));
		vcpu->run->exit_reason = KVM_EXIT_EPT_VIEW;
		return 0;
	default:
		return 1;
	}
}

/* ---- Events ---- */

bool vmx_ept_view_defers_events(struct kvm_vcpu *vcpu)
{
	return view_active(to_views(vcpu));
}

bool vmx_ept_view_enable_window(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	if (!view_active(views))
		return false;
	request_leave(views);
	return true;
}

/* ---- Attach and detach ---- */

static u64 *alloc_table(struct ept_view_attachment *att)
{
	struct page *page = ept_view_alloc_page(&att->pages);

	return page ? page_address(page) : NULL;
}

/*
 * The private part of one hierarchy: three levels down to the private pages,
 * and everything outside the reserved range leads elsewhere.  Returns the table
 * of the private pages.
 */
static u64 *build_hierarchy(struct ept_view_attachment *att,
			    const struct ept_view_elsewhere *elsewhere,
			    u64 *const *frame_pd, u64 *eptp)
{
	const unsigned int first = (KVM_EPT_VIEW_GPA >> 30) & 511;
	u64 *pml4 = alloc_table(att), *pdpt = alloc_table(att);
	u64 *pd = alloc_table(att), *pt = alloc_table(att);
	int i;

	BUILD_BUG_ON(KVM_EPT_VIEW_GPA >> 39 !=
		     (KVM_EPT_VIEW_GPA + KVM_EPT_VIEW_GPA_SIZE - 1) >> 39);
	if (!pml4 || !pdpt || !pd || !pt)
		return NULL;

	for (i = 0; i < PTRS_PER_PTE; i++) {
		pml4[i] = ept_view_table(elsewhere->pdpt);
		pdpt[i] = ept_view_table(elsewhere->pd);
	}
	pml4[KVM_EPT_VIEW_GPA >> 39] = ept_view_table(pdpt);
	pdpt[first] = ept_view_table(pd);
	for (i = 0; i < EPT_VIEW_FRAME_PDS; i++)
		pdpt[first + 1 + i] = frame_pd && frame_pd[i] ?
				      ept_view_table(frame_pd[i]) : 0;
	pd[0] = ept_view_table(pt);

	/* No accessed and dirty bits: nothing in a view is logged. */
	*eptp = __pa(pml4) | VMX_EPTP_MT_WB | VMX_EPTP_PWL_4;
	return pt;
}

static int build_gate_view(struct ept_view_attachment *att, struct page *list)
{
	struct ept_view_code *code = &ept_gate.code[att->slot];
	struct page *table;
	unsigned long gfn;
	u64 *places;

	places = build_hierarchy(att, &ept_gate.elsewhere, NULL,
				 &att->gate_eptp);
	if (!places)
		return -ENOMEM;

	places[EPT_VIEW_PLACE_CODE] =
		ept_view_leaf(code->page[ept_view_code_index(att->right)],
			      KVM_EPT_VIEW_EXEC);
	places[EPT_VIEW_PLACE_LIST] =
		ept_view_leaf(list, KVM_EPT_VIEW_READ | KVM_EPT_VIEW_WRITE);
	xa_for_each(&ept_gate.pt.tables, gfn, table)
		places[gfn & 511] = ept_view_leaf(table, KVM_EPT_VIEW_READ);
	return 0;
}

static int build_service_view(struct ept_view_attachment *att,
			      struct page *list)
{
	const u32 rw = KVM_EPT_VIEW_READ | KVM_EPT_VIEW_WRITE;
	struct ept_view *view = att->grant->view;
	struct page *page;
	u64 *places;
	int i;

	places = build_hierarchy(att, &view->elsewhere, view->frame_pd,
				 &att->service_eptp);
	if (!places)
		return -ENOMEM;
	page = view->stub[att->slot].page[ept_view_code_index(att->right)];

	places[EPT_VIEW_PLACE_CODE] = ept_view_leaf(page, KVM_EPT_VIEW_EXEC);
	if (att->right == KVM_EPT_VIEW_RIGHT_FAST)
		places[EPT_VIEW_PLACE_LIST] = ept_view_leaf(list, rw);
	places[EPT_VIEW_PLACE_CALL] =
		ept_view_leaf(virt_to_page(att->call), rw);
	for (i = 0; i < EPT_VIEW_STACK_PAGES; i++) {
		page = ept_view_alloc_page(&att->pages);
		if (!page)
			return -ENOMEM;
		places[EPT_VIEW_PLACE_STACK + i] = ept_view_leaf(page, rw);
	}
	return 0;
}

static void free_attachment(struct ept_view_attachment *att)
{
	ept_view_free_pages(&att->pages);
	fput(att->file);
	kfree(att);
}

static struct ept_view_attachment *
make_attachment(struct kvm_vcpu *vcpu, struct file *file,
		struct ept_view_grant *grant,
		const struct kvm_attach_ept_view *arg, struct page *list)
{
	struct ept_view_attachment *att;
	int r = -ENOMEM;

	att = kzalloc(sizeof(*att), GFP_KERNEL_ACCOUNT);
	if (!att)
		return ERR_PTR(-ENOMEM);
	att->vcpu = vcpu;
	att->file = get_file(file);
	att->grant = grant;
	att->slot = arg->slot;
	att->member = arg->member;
	att->right = arg->right;
	att->flags = arg->flags;
	INIT_LIST_HEAD(&att->pages);

	if (!is_enterable(att))
		return att;

	att->call = (void *)alloc_table(att);
	if (att->call) {
		att->call->member = att->member;
		memcpy(att->call->caller, grant->caller, sizeof(grant->caller));
		r = build_gate_view(att, list);
		if (!r)
			r = build_service_view(att, list);
	}
	if (!r)
		return att;
	free_attachment(att);
	return ERR_PTR(r);
}

static void free_views(struct ept_view_vcpu *views)
{
	if (views->list_page)
		__free_page(views->list_page);
	kfree(views);
}

static struct ept_view_vcpu *make_views(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu *mmu = vcpu->arch.mmu;
	struct ept_view_vcpu *views;

	views = kzalloc(sizeof(*views), GFP_KERNEL_ACCOUNT);
	if (!views)
		return NULL;
	views->list_page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!views->list_page) {
		free_views(views);
		return NULL;
	}
	views->list = page_address(views->list_page);
	views->default_eptp = VALID_PAGE(mmu->root.hpa) ?
		construct_eptp(vcpu, mmu->root.hpa, mmu->root_role.level) :
		EPTP_INVALID;
	reset_list(views);
	return views;
}

static bool overlaps_reserved(gfn_t base, u64 nr_pages)
{
	const gfn_t first = KVM_EPT_VIEW_GPA >> PAGE_SHIFT;
	const gfn_t end = first + (KVM_EPT_VIEW_GPA_SIZE >> PAGE_SHIFT);

	return base < end && base + nr_pages > first;
}

/* From here on the VM has no memory slot in the reserved range. */
static int reserve_gpas(struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	int i, bkt, r = 0;

	mutex_lock(&kvm->slots_lock);
	for (i = 0; i < kvm_arch_nr_memslot_as_ids(kvm); i++) {
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, i)) {
			if (overlaps_reserved(slot->base_gfn, slot->npages))
				r = -EEXIST;
		}
	}
	if (!r)
		to_kvm_vmx(kvm)->ept_views_reserved = true;
	mutex_unlock(&kvm->slots_lock);
	return r;
}

static bool vmx_ept_view_forbids_slot(struct kvm *kvm, gfn_t base, u64 nr_pages)
{
	return to_kvm_vmx(kvm)->ept_views_reserved &&
	       overlaps_reserved(base, nr_pages);
}

/* What a vCPU must be, and its VM have, for views to be entered. */
static int prepare_vcpu(struct kvm_vcpu *vcpu)
{
	/* Without it user space injects interrupts behind KVM's back. */
	if (!irqchip_in_kernel(vcpu->kvm))
		return -ENXIO;
	if (guest_cpu_cap_has(vcpu, X86_FEATURE_VMX) || to_vmx(vcpu)->nested.vmxon ||
	    vcpu->guest_debug || is_smm(vcpu))
		return -EBUSY;
	/* VMFUNC to a hierarchy of another depth exits. */
	if (!cpuid_allows_views(vcpu) ||
	    vcpu->arch.mmu->root_role.level != PT64_ROOT_4LEVEL)
		return -EOPNOTSUPP;
	if (vcpu->arch.cr4 & ~KVM_POSSIBLE_CR4_GUEST_BITS & ~CR4_ALLOWED)
		return -EOPNOTSUPP;
	return reserve_gpas(vcpu->kvm);
}

static void put_views(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	to_vmx(vcpu)->ept_views = NULL;
	static_branch_slow_dec_deferred(&ept_views_in_use);
	free_views(views);
}

static int get_views(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = make_views(vcpu);

	if (!views)
		return -ENOMEM;
	static_branch_deferred_inc(&ept_views_in_use);
	to_vmx(vcpu)->ept_views = views;
	vmx_ept_view_cpuid_changed(vcpu);
	return 0;
}

static int attach_grant(struct kvm_vcpu *vcpu, struct file *file,
			struct ept_view_grant *grant,
			struct kvm_attach_ept_view *arg)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	struct ept_view_attachment *att;
	int r;

	att = make_attachment(vcpu, file, grant, arg, views->list_page);
	if (IS_ERR(att))
		return PTR_ERR(att);
	/* From here on a revocation finds this vCPU. */
	r = ept_view_claim_member(grant, arg->member, att);
	if (r) {
		free_attachment(att);
		return r;
	}
	views->slots[arg->slot] = att;
	views->nr_attached++;
	if (is_enterable(att)) {
		views->nr_enterable++;
		views->flush_views = true;
		kvm_set_apicv_inhibit(vcpu->kvm, APICV_INHIBIT_REASON_EPT_VIEW);
	}
	set_slot_entries(views, arg->slot);
	return 0;
}

static int check_attach(struct kvm_vcpu *vcpu, struct kvm_attach_ept_view *arg)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	if (arg->slot >= KVM_EPT_VIEW_SLOTS ||
	    (arg->flags & ~KVM_EPT_VIEW_EXIT_ON_ABORT) ||
	    memchr_inv(arg->reserved, 0, sizeof(arg->reserved)))
		return -EINVAL;
	if (arg->right != KVM_EPT_VIEW_RIGHT_FAST &&
	    arg->right != KVM_EPT_VIEW_RIGHT_STRICT &&
	    arg->right != KVM_EPT_VIEW_RIGHT_HYPERCALL)
		return -EINVAL;
	arg->slot = array_index_nospec(arg->slot, KVM_EPT_VIEW_SLOTS);
	return views && views->slots[arg->slot] ? -EEXIST : 0;
}

static int attach(struct kvm_vcpu *vcpu, struct kvm_attach_ept_view *arg)
{
	struct ept_view_grant *grant;
	struct file *file;
	int r;

	r = check_attach(vcpu, arg);
	if (r)
		return r;
	file = fget(arg->grant_fd);
	if (!file)
		return -EBADF;
	r = -EBADF;
	grant = ept_view_grant_from_file(file);
	if (!grant)
		goto out;
	r = -EINVAL;
	if (arg->member >= grant->nr_members)
		goto out;
	arg->member = array_index_nospec(arg->member, grant->nr_members);
	r = -EACCES;
	if (!(arg->right & grant->rights))
		goto out;

	r = arg->right & EPT_VIEW_ENTER_RIGHTS ? prepare_vcpu(vcpu) : 0;
	if (r)
		goto out;
	if (!to_views(vcpu)) {
		r = get_views(vcpu);
		if (r)
			goto out;
	}
	r = attach_grant(vcpu, file, grant, arg);
	if (r && !to_views(vcpu)->nr_attached)
		put_views(vcpu);
out:
	fput(file);
	return r;
}

static void detach_slot(struct kvm_vcpu *vcpu, unsigned int slot)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	struct ept_view_attachment *att = views->slots[slot];

	views->slots[slot] = NULL;
	views->nr_attached--;
	if (is_enterable(att))
		views->nr_enterable--;
	ept_view_release_member(att->grant, att->member);
	free_attachment(att);
}

void vmx_ept_view_free(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	unsigned int i;

	if (!views)
		return;
	for (i = 0; i < KVM_EPT_VIEW_SLOTS; i++) {
		if (views->slots[i])
			detach_slot(vcpu, i);
	}
	put_views(vcpu);
}

static int detach(struct kvm_vcpu *vcpu, struct kvm_detach_ept_view *arg)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	struct ept_view_attachment *att;

	if (arg->slot >= KVM_EPT_VIEW_SLOTS || arg->flags ||
	    memchr_inv(arg->reserved, 0, sizeof(arg->reserved)))
		return -EINVAL;
	arg->slot = array_index_nospec(arg->slot, KVM_EPT_VIEW_SLOTS);
	att = views ? views->slots[arg->slot] : NULL;
	if (!att)
		return -ENOENT;

	if (views->active.att == att)
		abort_call_without_exit(vcpu, KVM_EPT_VIEW_ABORT_DETACH);
	detach_slot(vcpu, arg->slot);
	set_slot_entries(views, arg->slot);
	if (views->armed && !views->nr_enterable)
		set_armed(vcpu, false);
	if (!views->nr_attached)
		put_views(vcpu);
	return 0;
}

static int get_stats(struct kvm_vcpu *vcpu, struct kvm_ept_view_stats *stats)
{
	struct ept_view_vcpu *views = to_views(vcpu);
	struct ept_view_attachment *att;
	u32 slot = stats->slot;

	if (slot >= KVM_EPT_VIEW_SLOTS || stats->flags)
		return -EINVAL;
	slot = array_index_nospec(slot, KVM_EPT_VIEW_SLOTS);
	att = views ? views->slots[slot] : NULL;
	if (!att)
		return -ENOENT;
	*stats = att->stats;
	stats->slot = slot;
	stats->revoked = READ_ONCE(att->grant->revoked);
	stats->armed = views->armed && is_enterable(att) && !stats->revoked;
	return 0;
}

static int vmx_ept_view_vcpu_ioctl(struct kvm_vcpu *vcpu, unsigned int ioctl,
				   void __user *argp)
{
	union {
		struct kvm_attach_ept_view attach;
		struct kvm_detach_ept_view detach;
		struct kvm_ept_view_stats stats;
	} u;
	int r;

	if (_IOC_SIZE(ioctl) > sizeof(u))
		return -ENOTTY;
	if (copy_from_user(&u, argp, _IOC_SIZE(ioctl)))
		return -EFAULT;

	switch (ioctl) {
	case KVM_ATTACH_EPT_VIEW:
		return attach(vcpu, &u.attach);
	case KVM_DETACH_EPT_VIEW:
		return detach(vcpu, &u.detach);
	case KVM_GET_EPT_VIEW_STATS:
		r = get_stats(vcpu, &u.stats);
		if (!r && copy_to_user(argp, &u.stats, sizeof(u.stats)))
			r = -EFAULT;
		return r;
	default:
		return -ENOTTY;
	}
}

bool vmx_ept_view_attached(struct kvm_vcpu *vcpu)
{
	struct ept_view_vcpu *views = to_views(vcpu);

	return views && views->nr_enterable;
}

/* Before the module goes. */
void vmx_ept_view_flush_key(void)
{
	static_key_deferred_flush(&ept_views_in_use);
}

void vmx_ept_view_set_ops(struct kvm_x86_ops *ops)
{
	ops->ept_view_rights = vmx_ept_view_rights;
	ops->ept_view_create = vmx_ept_view_create;
	ops->ept_view_vcpu_ioctl = vmx_ept_view_vcpu_ioctl;
	ops->ept_view_attached = vmx_ept_view_attached;
	ops->ept_view_abort = vmx_ept_view_abort;
	ops->ept_view_active = vmx_ept_view_active;
	ops->ept_view_mask_regs = vmx_ept_view_mask_regs;
	ops->ept_view_mask_fpu = vmx_ept_view_mask_fpu;
	ops->ept_view_mask_xsave = vmx_ept_view_mask_xsave;
	ops->ept_view_update = vmx_ept_view_update;
	ops->ept_view_forbids_slot = vmx_ept_view_forbids_slot;
}
