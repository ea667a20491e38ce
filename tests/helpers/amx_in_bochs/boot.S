# A multiboot kernel's first steps: 64-bit mode, memory as it lies, and every vector and tile register allowed. Then bare_main.
.section .multiboot,"a"
.align 4
.long 0x1BADB002, 0x3, -(0x1BADB002 + 0x3)
.section .text
.code32
.global _start
_start:
    cli
    mov $stack_top, %esp
    mov $pdpt, %eax
    or $3, %eax
    mov %eax, pml4
    movl $0x00000083, pdpt
    movl $0x40000083, pdpt+8
    movl $0x80000083, pdpt+16
    movl $0xc0000083, pdpt+24
    mov %cr4, %eax
    or $((1<<5)|(1<<9)|(1<<10)|(1<<18)), %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xC0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    and $~((1<<2)|(1<<3)), %eax
    or $((1<<31)|(1<<5)|(1<<1)|1), %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_mode
.code64
long_mode:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %ecx, %ecx
    xor %edx, %edx
    mov $0x600e7, %eax
    xsetbv                      # XCR0: x87, SSE, AVX, AVX-512, tile configuration and data
    fninit
    mov $stack_top, %rsp
    mov $0xC0000100, %ecx       # FS base: a place for the stack protector's and other words
    mov $fs_area, %eax
    xor %edx, %edx
    wrmsr
    call bare_main
1:  hlt
    jmp 1b
.section .data
.align 8
gdt: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdt_pointer: .word 23
    .long gdt
.section .bss
.align 4096
pml4: .skip 4096
pdpt: .skip 4096
    .skip 4096
fs_area: .skip 4096
    .skip 1048576
stack_top:
