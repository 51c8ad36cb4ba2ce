/* SPDX-License-Identifier: GPL-2.0 */
/* How the service returns in kernels that do not replace returns. */
#include <linux/linkage.h>

	.text
SYM_FUNC_START(__x86_return_thunk)
	ret
	int3
SYM_FUNC_END(__x86_return_thunk)
