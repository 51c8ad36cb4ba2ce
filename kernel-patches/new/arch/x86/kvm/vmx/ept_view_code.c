// SPDX-License-Identifier: GPL-2.0
/*
 * The code that the kernel puts into views, all of it on one page at
 * KVM_EPT_VIEW_GATE_GVA, and nothing in it depends on the guest.  Each slot has
 * a gate and a stub of its own; they differ in the index of the list entry that
 * the gate arms (0xcc here, which is slot 0's) and in that of the gate:
 *
 *   gate view  (execute-only)          service's view
 *   0x000  and byte [list+0x667],0x7f
 *   0x007  xor ecx,ecx
 *   0x009  mov cl,0xcc
 *   0x00b  vmfunc                 -->  0x00e  or byte [list+0x667],0x80   (fast)
 *                                             cld; save RSP; own stack
 *                                             call the service
 *                                             restore RSP, scrub, vmfunc
 *   0xff3  bts dword [list+0x664],31   <--                              (strict)
 *          shr ecx,cl
 *          vmfunc                 -->  default view, next page
 *
 * A guest can enter the gate at any byte.  The encodings are chosen such that
 * no decoding of these bytes, from any offset, writes memory except through
 * the two constant addresses above, reads memory at an address from a register
 * on a way back to the guest, or reaches VMFUNC after the entry was armed with
 * anything but the constant index.  Bytes that are not code are HLT, which
 * faults at CPL 3.
 *
 * The gates of all slots have the same layout, so a VMFUNC from one gate view to
 * another is an entry like any other: it goes on at a byte of that page, and
 * with no entry armed.
 */
#include "ept_view.h"

#define GATE	KVM_EPT_VIEW_GATE_GVA

#define SAVED_RSP	(KVM_EPT_VIEW_CALL_GVA + \
			 offsetof(struct kvm_ept_view_call, saved_rsp))
#define VIEW_STACK_TOP	(KVM_EPT_VIEW_STACK_GVA + KVM_EPT_VIEW_STACK_SIZE)

#define STUB_OFFSET		14
#define STRICT_TAIL_OFFSET	0xff3

/* Sizes of the stub's first instructions. */
#define STUB_DISARM_SIZE	7
#define STUB_CLD_SIZE		1
#define STUB_SAVE_RSP_SIZE	7

static const u8 service_index[KVM_EPT_VIEW_SLOTS] = KVM_EPT_VIEW_INDICES_SERVICE;

struct code {
	u8 *page;
	unsigned int at;
};

/* The byte of a slot's list entry that has bit 63. */
static u64 arm_byte(unsigned int slot)
{
	return KVM_EPT_VIEW_LIST_GVA + service_index[slot] * 8 + 7;
}

/* The 32-bit word of it that has bit 63. */
static u64 arm_word(unsigned int slot)
{
	return KVM_EPT_VIEW_LIST_GVA + service_index[slot] * 8 + 4;
}

static void emit(struct code *c, const u8 *bytes, unsigned int n)
{
	memcpy(c->page + c->at, bytes, n);
	c->at += n;
}

#define EMIT(c, ...) do {					\
	const u8 bytes_[] = { __VA_ARGS__ };			\
	emit(c, bytes_, sizeof(bytes_));			\
} while (0)

/* A RIP-relative operand; @trailing bytes of the instruction follow it. */
static void emit_rel32(struct code *c, u64 target, unsigned int trailing)
{
	s32 rel = target - (GATE + c->at + 4 + trailing);

	emit(c, (const u8 *)&rel, sizeof(rel));
}

static struct page *code_page(struct list_head *pages, struct code *c)
{
	struct page *page = ept_view_alloc_page(pages);

	if (!page)
		return NULL;
	c->page = page_address(page);
	c->at = 0;
	memset(c->page, 0xf4, PAGE_SIZE);
	return page;
}

struct page *ept_view_make_gate(struct list_head *pages, u32 right, unsigned int slot)
{
	struct code c;
	struct page *page = code_page(pages, &c);

	if (!page)
		return NULL;

	EMIT(&c, 0x80, 0x25);			/* and byte [rip+rel], 0x7f */
	emit_rel32(&c, arm_byte(slot), 1);
	EMIT(&c, 0x7f);
	EMIT(&c, 0x31, 0xc9);			/* xor ecx, ecx */
	EMIT(&c, 0xb1, service_index[slot]);	/* mov cl, index */
	EMIT(&c, 0x0f, 0x01, 0xd4);		/* vmfunc */
	if (WARN_ON_ONCE(c.at != STUB_OFFSET))
		return NULL;

	if (right == KVM_EPT_VIEW_RIGHT_STRICT) {
		c.at = STRICT_TAIL_OFFSET;
		EMIT(&c, 0x0f, 0xba, 0x2d);	/* bts dword [rip+rel], 31 */
		emit_rel32(&c, arm_word(slot), 1);
		EMIT(&c, 0x1f);
		/*
		 * From the gate's index, which the stub leaves in ECX, to the
		 * default view's: any number shifted by itself is 0, as long as
		 * the CPU does not cut the count, to 5 bits.
		 */
		EMIT(&c, 0xd3, 0xe9);		/* shr ecx, cl */
		EMIT(&c, 0x0f, 0x01, 0xd4);	/* vmfunc */
		if (WARN_ON_ONCE(c.at != PAGE_SIZE))
			return NULL;
		BUILD_BUG_ON(KVM_EPT_VIEW_INDEX_DEFAULT != 0);
		BUILD_BUG_ON(KVM_EPT_VIEW_INDEX_GATE(KVM_EPT_VIEW_SLOTS - 1) > 31);
	}
	return page;
}

bool ept_view_entry_in_reach(u64 entry)
{
	return entry >= GATE && entry - GATE < SZ_2G - PAGE_SIZE;
}

/*
 * Offset in the page right behind the stub's save of RSP: from there on, and
 * not before, saved_rsp of the call page is that of the call.
 */
unsigned int ept_view_stub_saved_rsp_at(u32 right)
{
	unsigned int at = STUB_OFFSET + STUB_CLD_SIZE + STUB_SAVE_RSP_SIZE;

	return right == KVM_EPT_VIEW_RIGHT_FAST ? at + STUB_DISARM_SIZE : at;
}

/*
 * The tail ends where the page (fast) or the gate's own tail (strict) begins,
 * so that its VMFUNC is the last thing the service's view executes.
 */
static void emit_stub_tail(struct code *c, u32 right, unsigned int slot)
{
	EMIT(c, 0x48, 0x8b, 0x25);		/* mov rsp, [rip+saved_rsp] */
	emit_rel32(c, SAVED_RSP, 0);
	EMIT(c, 0x48, 0x89, 0xc2);		/* mov rdx, rax */
	EMIT(c, 0x31, 0xf6);			/* xor esi, esi */
	EMIT(c, 0x31, 0xff);			/* xor edi, edi */
	EMIT(c, 0x45, 0x31, 0xc0);		/* xor r8d, r8d */
	EMIT(c, 0x45, 0x31, 0xc9);		/* xor r9d, r9d */
	EMIT(c, 0x45, 0x31, 0xd2);		/* xor r10d, r10d */
	EMIT(c, 0x45, 0x31, 0xdb);		/* xor r11d, r11d */
	if (right == KVM_EPT_VIEW_RIGHT_STRICT)	/* mov ecx, gate */
		EMIT(c, 0xb9, KVM_EPT_VIEW_INDEX_GATE(slot), 0x00, 0x00, 0x00);
	else
		EMIT(c, 0x31, 0xc9);		/* xor ecx, ecx */
	EMIT(c, 0x31, 0xc0);			/* xor eax, eax */
	EMIT(c, 0x0f, 0x01, 0xd4);		/* vmfunc */
}

struct page *ept_view_make_stub(struct list_head *pages, u32 right, unsigned int slot, u64 entry)
{
	unsigned int end = PAGE_SIZE;
	struct code c, dry;
	struct page *page = code_page(pages, &c);
	unsigned int tail;

	if (!page)
		return NULL;
	if (right == KVM_EPT_VIEW_RIGHT_STRICT)
		end = STRICT_TAIL_OFFSET;

	/* Where the tail begins follows from its length. */
	dry = c;
	emit_stub_tail(&dry, right, slot);
	tail = end - dry.at;
	memset(c.page, 0xf4, dry.at);

	c.at = STUB_OFFSET;
	if (right == KVM_EPT_VIEW_RIGHT_FAST) {
		EMIT(&c, 0x80, 0x0d);		/* or byte [rip+rel], 0x80 */
		emit_rel32(&c, arm_byte(slot), 1);
		EMIT(&c, 0x80);
	}
	EMIT(&c, 0xfc);				/* cld */
	EMIT(&c, 0x48, 0x89, 0x25);		/* mov [rip+saved_rsp], rsp */
	emit_rel32(&c, SAVED_RSP, 0);
	if (WARN_ON_ONCE(c.at != ept_view_stub_saved_rsp_at(right)))
		return NULL;
	EMIT(&c, 0x48, 0x8d, 0x25);		/* lea rsp, [rip+stack] */
	emit_rel32(&c, VIEW_STACK_TOP, 0);
	EMIT(&c, 0xe8);				/* call entry */
	emit_rel32(&c, entry, 0);
	EMIT(&c, 0xe9);				/* jmp tail */
	emit_rel32(&c, GATE + tail, 0);
	if (WARN_ON_ONCE(c.at > tail))
		return NULL;

	c.at = tail;
	emit_stub_tail(&c, right, slot);
	return WARN_ON_ONCE(c.at != end) ? NULL : page;
}
