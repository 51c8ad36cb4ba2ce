/* SPDX-License-Identifier: GPL-2.0 */
/* Stands in for the kernel's headers where ept_view_code.c is compiled as a program. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/kvm_ept_view.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef int32_t s32;
typedef uint64_t u64;

#define PAGE_SIZE 4096
#define SZ_2G 0x80000000ULL
#define BUILD_BUG_ON(condition) _Static_assert(!(condition), #condition)
#define WARN_ON_ONCE(condition) (condition)

struct list_head {
	int unused;
};

struct page {
	u8 bytes[PAGE_SIZE];
};

static struct page *ept_view_alloc_page(struct list_head *pages)
{
	(void)pages;
	return calloc(1, sizeof(struct page));
}

#define page_address(page) ((void *)(page)->bytes)

struct page *ept_view_make_gate(struct list_head *pages, u32 right, unsigned int slot);
struct page *ept_view_make_stub(struct list_head *pages, u32 right, unsigned int slot, u64 entry);
bool ept_view_entry_in_reach(u64 entry);
unsigned int ept_view_stub_saved_rsp_at(u32 right);
