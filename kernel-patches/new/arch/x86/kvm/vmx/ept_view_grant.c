// SPDX-License-Identifier: GPL-2.0
/*
 * Grants: who may attach a template, by which rights and as whom.
 *
 * A grant is made and revoked by whoever has the template; who has the grant
 * alone can do neither.  Its members are attached to one vCPU each, so that
 * what the service keeps for a member has one writer.
 *
 * Revocation does not wait for the grant's holders.  It marks the grant, under
 * the lock that every attachment takes, and then sees to it that
 *
 *   - vCPUs that run leave guest mode once: before they enter it again they
 *     find the mark, end a call that is under way and make the views' entries
 *     of their EPTP lists invalid (vmx_ept_view_update());
 *   - hypercalls that run are over.
 *
 * Attachments stay allocated until their vCPU is detached or freed.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/smp.h>

#include "ept_view.h"

static void grant_idle(struct percpu_ref *calls)
{
	struct ept_view_grant *grant =
		container_of(calls, struct ept_view_grant, calls);

	if (atomic_dec_and_test(&grant->view->nr_ending))
		wake_up_all(&grant->view->ended);
	/* Last: from here on the grant, and the template, can be freed. */
	complete_all(&grant->idle);
}

static void free_grant(struct ept_view_grant *grant)
{
	/* The last reference may still be on its way to grant_idle(). */
	if (grant->revoked)
		wait_for_completion(&grant->idle);
	percpu_ref_exit(&grant->calls);
	kvfree(grant);
}

/* Runs when neither a process nor an attached vCPU holds the grant any more. */
static int grant_release(struct inode *inode, struct file *file)
{
	struct ept_view_grant *grant = file->private_data;
	struct file *view_file = grant->view_file;

	mutex_lock(&grant->view->lock);
	list_del(&grant->link);
	mutex_unlock(&grant->view->lock);
	free_grant(grant);
	fput(view_file);
	return 0;
}

static const struct file_operations grant_fops = {
	.owner		= THIS_MODULE,
	.release	= grant_release,
	.llseek		= noop_llseek,
};

struct ept_view_grant *ept_view_grant_from_file(struct file *file)
{
	return file->f_op == &grant_fops ? file->private_data : NULL;
}

static int check_grant(struct ept_view *view, struct kvm_ept_view_grant *arg)
{
	const u32 all = EPT_VIEW_ENTER_RIGHTS | KVM_EPT_VIEW_RIGHT_HYPERCALL;

	if (arg->flags || memchr_inv(arg->reserved, 0, sizeof(arg->reserved)) ||
	    !arg->rights || (arg->rights & ~all) ||
	    !arg->members || arg->members > KVM_EPT_VIEW_MAX_MEMBERS)
		return -EINVAL;
	if (!view->sealed)
		return -EINVAL;
	return arg->rights & ~view->rights ? -EACCES : 0;
}

/* The service must be able to work for this caller on the template's data. */
static int check_service(struct ept_view *view, struct ept_view_grant *grant)
{
	u64 size;
	int r;

	if (!(grant->rights & KVM_EPT_VIEW_RIGHT_HYPERCALL))
		return 0;
	r = ept_view_service_size(grant->caller, &size);
	if (r)
		return r;
	return !size || size > view->data_size ? -EINVAL : 0;
}

static struct ept_view_grant *new_grant(struct ept_view *view,
					struct kvm_ept_view_grant *arg)
{
	struct ept_view_grant *grant;
	size_t size = struct_size(grant, members, arg->members);

	/* kmalloc() aligns a power of two to itself, and vmalloc() to a page. */
	grant = kvzalloc(roundup_pow_of_two(size), GFP_KERNEL_ACCOUNT);
	if (!grant)
		return NULL;
	if (percpu_ref_init(&grant->calls, grant_idle, 0, GFP_KERNEL_ACCOUNT)) {
		kvfree(grant);
		return NULL;
	}
	BUILD_BUG_ON(sizeof(grant->caller) != sizeof(arg->caller));
	memcpy(grant->caller, arg->caller, sizeof(grant->caller));
	grant->view = view;
	grant->id = arg->id;
	grant->rights = arg->rights;
	grant->nr_members = arg->members;
	mutex_init(&grant->lock);
	init_completion(&grant->idle);
	return grant;
}

/* Called with the template's lock held. */
int ept_view_make_grant(struct file *view_file, struct ept_view *view,
			struct kvm_ept_view_grant *arg)
{
	struct ept_view_grant *grant;
	int r;

	r = check_grant(view, arg);
	if (r)
		return r;
	grant = new_grant(view, arg);
	if (!grant)
		return -ENOMEM;
	r = check_service(view, grant);
	if (r)
		goto fail;

	grant->view_file = get_file(view_file);
	list_add_tail(&grant->link, &view->grants);
	r = anon_inode_getfd("kvm-ept-view-grant", &grant_fops, grant,
			     O_RDWR | O_CLOEXEC);
	if (r >= 0)
		return r;
	list_del(&grant->link);
	fput(view_file);
fail:
	free_grant(grant);
	return r;
}

static void left_guest_mode(void *arg)
{
}

/*
 * Make the vCPUs that have attached the grant look at it before they next enter
 * their guest, and leave guest mode now.  vCPUs are freed under the grant's
 * lock, so they are there.
 */
static void kick_members(struct ept_view_grant *grant)
{
	struct kvm_vcpu *vcpu;
	int cpu;
	u32 i;

	for (i = 0; i < grant->nr_members; i++) {
		if (!grant->members[i])
			continue;
		vcpu = grant->members[i]->vcpu;
		kvm_make_request(KVM_REQ_EPT_VIEW, vcpu);
		/* Pairs with the barrier after vcpu->mode is set for entry. */
		smp_mb__after_atomic();
		cpu = READ_ONCE(vcpu->cpu);
		if (READ_ONCE(vcpu->mode) != OUTSIDE_GUEST_MODE && cpu >= 0)
			smp_call_function_single(cpu, left_guest_mode, NULL, 1);
	}
}

/* Called with the template's lock held. */
int ept_view_revoke(struct ept_view *view, struct kvm_ept_view_revoke *arg)
{
	struct ept_view_grant *grant;
	int nr = 0;

	if (arg->flags || memchr_inv(arg->reserved, 0, sizeof(arg->reserved)))
		return -EINVAL;

	list_for_each_entry(grant, &view->grants, link) {
		if (grant->id != arg->id || grant->revoked)
			continue;
		mutex_lock(&grant->lock);
		/* Pairs with the load in vmx_ept_view_update(). */
		WRITE_ONCE(grant->revoked, true);
		kick_members(grant);
		mutex_unlock(&grant->lock);
		atomic_inc(&view->nr_ending);
		percpu_ref_kill(&grant->calls);
		nr++;
	}
	return nr;
}

/*
 * Wait for the hypercalls of all grants that are revoked, those of an earlier
 * call that was interrupted among them.  Called without the template's lock:
 * what is waited for runs in other processes.
 */
int ept_view_wait_revoked(struct ept_view *view)
{
	return wait_event_killable(view->ended, !atomic_read(&view->nr_ending)) ?
	       -EINTR : 0;
}

void ept_view_count_grants(struct ept_view *view, struct kvm_ept_view_info *info)
{
	struct ept_view_grant *grant;
	u32 i;

	list_for_each_entry(grant, &view->grants, link) {
		info->grants += !grant->revoked;
		mutex_lock(&grant->lock);
		for (i = 0; i < grant->nr_members; i++)
			info->attachments += !!grant->members[i];
		mutex_unlock(&grant->lock);
	}
}

int ept_view_claim_member(struct ept_view_grant *grant, u32 member,
			  struct ept_view_attachment *att)
{
	int r = 0;

	mutex_lock(&grant->lock);
	if (grant->revoked)
		r = -EKEYREVOKED;
	else if (grant->members[member])
		r = -EBUSY;
	else
		grant->members[member] = att;
	mutex_unlock(&grant->lock);
	return r;
}

void ept_view_release_member(struct ept_view_grant *grant, u32 member)
{
	mutex_lock(&grant->lock);
	grant->members[member] = NULL;
	mutex_unlock(&grant->lock);
}
