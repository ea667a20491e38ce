#!/usr/bin/env bash
# Runs the `amx` variant's own instructions where no CPU has them: on Bochs 3, which emulates AMX, and compares every bit
# with the emulated tile registers of tiles.h. Boots no system: the kernel is what the boot loader starts.
#
# usage: run.sh BOCHS_SOURCE    a built tree, configured with --enable-x86-64 --enable-avx --enable-evex --enable-amx
#                               --with-nogui; isolinux, syslinux-common and xorriso are Debian's packages
set -euo pipefail
bochs=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
root=$here/../../..
sources=$root/model_registry/attention/native/csrc
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$root"
definitions=$(python3 -c "
import runpy
print(*runpy.run_path('model_registry/attention/native/constants.py')['DEFINITIONS'])")
vectors="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mavx512bf16"
cd "$scratch"

# shellcheck disable=SC2086  # lists of options
g++ -std=c++17 -O2 $definitions $vectors -DWAVE_EMULATED_TILES -I"$sources" "$here/digests.cpp" -o emulated
./emulated > emulated.txt

bare="-fno-pic -fno-pie -fno-stack-protector -mno-red-zone"
# shellcheck disable=SC2086
g++ -std=c++17 -O2 $bare -fno-threadsafe-statics -fno-math-errno -fno-builtin-memcpy -DBARE $definitions $vectors \
  -mamx-tile -mamx-bf16 -I"$sources" -I"$here" -c "$here/digests.cpp" -o digests.o
# shellcheck disable=SC2086
gcc -O1 -w -fno-builtin $bare -c "$here/no_exceptions.c" -o no_exceptions.o
gcc -c "$here/boot.S" -o boot.o
ld -z max-page-size=4096 -z noexecstack --no-warn-rwx-segments -T "$here/link.ld" boot.o no_exceptions.o digests.o \
  -o kernel64
mkdir -p iso/isolinux
objcopy -O elf32-i386 kernel64 iso/kernel.elf
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/{ldlinux,mboot,libcom32,libutil}.c32 iso/isolinux/
printf 'default digests\nprompt 0\ntimeout 1\nlabel digests\n kernel mboot.c32\n append /kernel.elf\n' \
  > iso/isolinux/isolinux.cfg
xorriso -as mkisofs -quiet -o boot.iso -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table iso
cat > bochsrc <<END
megs: 512
cpu: model=sapphire_rapids, count=1, ips=20000000
romimage: file=$bochs/bios/BIOS-bochs-latest
vgaromimage: file=$bochs/bios/VGABIOS-lgpl/VGABIOS-lgpl-latest.bin
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=instructions.txt
display_library: nogui
log: bochs.log
panic: action=fatal
END
timeout 900 "$bochs/bochs" -q -f bochsrc > bochs.out 2>&1 || true  # a shutdown is a panic to Bochs
grep -a ': ' instructions.txt | tr -d '\r' > lines.txt || { tail -5 bochs.log; exit 1; }
diff <(grep ': ' emulated.txt) lines.txt
echo "the same bits in $(wc -l < lines.txt) batches"
