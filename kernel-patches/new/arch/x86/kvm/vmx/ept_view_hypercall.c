// SPDX-License-Identifier: GPL-2.0
/*
 * The service that hypercalls run, for comparison with systems that take an
 * exit for each request.  It is an object that is built elsewhere and linked
 * into the module where KVM_EPT_VIEW_SERVICE is defined; without it templates
 * cannot be served by VMCALL.
 */
#include <linux/string.h>

#include "ept_view.h"

#ifdef KVM_EPT_VIEW_SERVICE

bool ept_view_has_service(void)
{
	return true;
}

bool ept_view_service_returns_by_thunks(void)
{
#ifdef KVM_EPT_VIEW_SERVICE_RETHUNK
	return true;
#else
	return false;
#endif
}

int ept_view_service_size(const u64 *caller, u64 *size)
{
	/* The service reads the words as an object with this alignment. */
	if (WARN_ON_ONCE(!IS_ALIGNED((unsigned long)caller, 64)))
		return -EINVAL;
	*size = postern_nic_size(caller);
	return 0;
}

u64 ept_view_service_call(void *data, const u64 *caller, u32 member, u64 op,
			  u64 arg0, u64 arg1)
{
	return postern_nic_call(data, caller, member, op, arg0, arg1);
}

void ept_view_service_take_bells(void *data, const u64 *caller, u64 arg1,
				 u64 *bits)
{
	postern_nic_take_bells(data, caller, arg1, bits);
}

#else /* !KVM_EPT_VIEW_SERVICE */

bool ept_view_has_service(void)
{
	return false;
}

bool ept_view_service_returns_by_thunks(void)
{
	return false;
}

int ept_view_service_size(const u64 *caller, u64 *size)
{
	return -EOPNOTSUPP;
}

u64 ept_view_service_call(void *data, const u64 *caller, u32 member, u64 op,
			  u64 arg0, u64 arg1)
{
	return 0;
}

void ept_view_service_take_bells(void *data, const u64 *caller, u64 arg1,
				 u64 *bits)
{
	memset(bits, 0, EPT_VIEW_BELL_WORDS * sizeof(*bits));
}

#endif
