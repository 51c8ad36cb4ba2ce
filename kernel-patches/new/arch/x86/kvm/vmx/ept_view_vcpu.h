/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What vmx.c asks of EPT views.
 *
 * All of it is behind a static key that is off while no vCPU of the host has a
 * view attached; see to_ept_views().
 */
#ifndef __KVM_X86_VMX_EPT_VIEW_VCPU_H
#define __KVM_X86_VMX_EPT_VIEW_VCPU_H

#include <linux/jump_label_ratelimit.h>

#include "ept_view.h"
#include "vmx.h"

/* Some vCPU has a view attached. */
extern struct static_key_false_deferred ept_views_in_use;

/*
 * No CPU reports this exit reason.  An exit that views handle, whatever CPU
 * reported, gets it before any other handler sees the exit.
 */
#define EXIT_REASON_EPT_VIEW	35

/* NULL if the vCPU has no view attached. */
static __always_inline struct ept_view_vcpu *to_ept_views(struct kvm_vcpu *vcpu)
{
	return static_branch_unlikely(&ept_views_in_use.key) ?
	       to_vmx(vcpu)->ept_views : NULL;
}

void vmx_ept_view_set_ops(struct kvm_x86_ops *ops);
void vmx_ept_view_flush_key(void);

/* KVM has a new root for the default view. */
void vmx_ept_view_load_root(struct kvm_vcpu *vcpu, u64 eptp);

void vmx_ept_view_cpuid_changed(struct kvm_vcpu *vcpu);

/*
 * Before registers are written for VM entry, and last after VM exit, with
 * interrupts off.  The second is true if views handle the exit.
 */
void vmx_ept_view_before_entry(struct kvm_vcpu *vcpu);
bool vmx_ept_view_after_exit(struct kvm_vcpu *vcpu);
int vmx_ept_view_handle_exit(struct kvm_vcpu *vcpu);

/* True if a view is active: nothing can be injected now. */
bool vmx_ept_view_defers_events(struct kvm_vcpu *vcpu);

/* True if a view is active; its return to the default view will then exit. */
bool vmx_ept_view_enable_window(struct kvm_vcpu *vcpu);

/* True if views can be entered: MOV DR and guest debugging depend on it. */
bool vmx_ept_view_attached(struct kvm_vcpu *vcpu);

void vmx_ept_view_reset(struct kvm_vcpu *vcpu);
void vmx_ept_view_free(struct kvm_vcpu *vcpu);

#endif /* __KVM_X86_VMX_EPT_VIEW_VCPU_H */
