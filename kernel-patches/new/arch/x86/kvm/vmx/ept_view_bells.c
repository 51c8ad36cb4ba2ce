// SPDX-License-Identifier: GPL-2.0
/*
 * Bells of a template: eventfds that are signalled at the end of a hypercall,
 * for those whom its service has found asleep.  The guest that made the
 * hypercall need not exit a second time to wake them.
 *
 * The template keeps what the fds stand for until it is freed, whoever closes
 * them.
 */
#include <linux/bitmap.h>
#include <linux/eventfd.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "ept_view.h"

static void put_bells(struct eventfd_ctx **bells, u32 nr)
{
	while (nr--)
		eventfd_ctx_put(bells[nr]);
	kfree(bells);
}

static struct eventfd_ctx **get_bells(const s32 *fds, u32 nr)
{
	struct eventfd_ctx **bells, *bell;
	u32 i;

	bells = kcalloc(nr, sizeof(*bells), GFP_KERNEL_ACCOUNT);
	if (!bells)
		return ERR_PTR(-ENOMEM);
	for (i = 0; i < nr; i++) {
		bell = eventfd_ctx_fdget(fds[i]);
		if (IS_ERR(bell)) {
			put_bells(bells, i);
			return ERR_CAST(bell);
		}
		bells[i] = bell;
	}
	return bells;
}

/* Called with the template's lock held. */
int ept_view_set_bells(struct ept_view *view, struct kvm_ept_view_bells *arg)
{
	struct eventfd_ctx **bells;
	s32 *fds;

	if (arg->flags || memchr_inv(arg->reserved, 0, sizeof(arg->reserved)) ||
	    !arg->bells || arg->bells > KVM_EPT_VIEW_MAX_BELLS)
		return -EINVAL;
	if (view->sealed)
		return -EROFS;
	if (view->bells)
		return -EEXIST;

	fds = memdup_user(u64_to_user_ptr(arg->fds), arg->bells * sizeof(*fds));
	if (IS_ERR(fds))
		return PTR_ERR(fds);
	bells = get_bells(fds, arg->bells);
	kfree(fds);
	if (IS_ERR(bells))
		return PTR_ERR(bells);
	view->bells = bells;
	view->nr_bells = arg->bells;
	return 0;
}

void ept_view_drop_bells(struct ept_view *view)
{
	put_bells(view->bells, view->nr_bells);
}

/*
 * Signals the bells whose bits are set, each once, and says how many these
 * were.  The guest has written the bits: those that stand for no bell count
 * for nothing.
 */
u32 ept_view_ring(struct ept_view *view, const u64 *bits)
{
	DECLARE_BITMAP(rung, KVM_EPT_VIEW_MAX_BELLS);
	u32 nr = view->nr_bells, bell;

	bitmap_from_arr64(rung, bits, nr);
	for_each_set_bit(bell, rung, nr)
		eventfd_signal(view->bells[array_index_nospec(bell, nr)]);
	return bitmap_weight(rung, nr);
}
