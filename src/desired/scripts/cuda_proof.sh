#!/bin/sh
# Whether a CUDA program can use the GPUs of this guest: a driver call of each sort through libcuda.so.1 itself. The last
# line says what came of it, as KEY=VALUE words; exit code 0 where nothing is wrong that a repetition could mend.
set -u
export LC_ALL=C
PATH=${PATH:-/usr/bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# In a container this is the module of its node.
module=$(sed -n '1s/.*Kernel Module\( for [a-z0-9_]*\)\{0,1\}  *\([0-9][0-9.]*\) .*/\2/p' "${PHOENIX_PROC:-/proc}/driver/nvidia/version" 2>/dev/null)
smi=$(timeout -k 2 20 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | sort -u | head -n 1)
case $smi in *[!0-9.]*) smi= ;; esac

python=
for name in ${PHOENIX_PYTHONS:-python3 /opt/vllm/bin/python3}; do
  if command -v "$name" > /dev/null 2>&1; then python=$name && break; fi
done

library=$(ldconfig -p 2>/dev/null | sed -n 's/.*libcuda\.so\.1 (libc6,x86-64.*=> //p' | head -n 1)
[ -n "${PHOENIX_LIBCUDA:-}" ] && library=$PHOENIX_LIBCUDA
if [ -z "$library" ] || ! [ -e "$library" ]; then
  echo "CUDA outcome=no-driver module=$module"
  exit 0
fi
file=$(readlink -f "$library")
userspace=$(printf '%s' "${file##*/}" | sed -n 's/^libcuda\.so\.\([0-9][0-9.]*\)$/\1/p')
if [ -n "$module" ] && [ -n "$userspace" ] && [ "$userspace" != "$module" ]; then
  echo "CUDA outcome=mismatch userspace=$userspace module=$module smi=$smi"
  exit 3
fi
if [ -z "$python" ]; then
  echo "CUDA outcome=no-python userspace=$userspace module=$module smi=$smi"
  exit 0
fi

said=$(timeout -k 5 "${PHOENIX_CUDA_SECONDS:-60}" "$python" -I - "$library" << 'PYTHON'
import ctypes
import sys

cuda = ctypes.CDLL(sys.argv[1])


def tell(outcome, **more):
    print("outcome=" + outcome, *("%s=%s" % item for item in more.items()))
    sys.exit(0 if outcome == "ok" else 3)


def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code != 0:
        failed(name, code)


def failed(name, code):
    words = ctypes.c_char_p()
    try:
        cuda.cuGetErrorName(code, ctypes.byref(words))
    except AttributeError:
        pass
    tell("error", call=name, code=code, name=(words.value or b"unknown").decode())


call("cuInit", 0)
version, count = ctypes.c_int(), ctypes.c_int()
call("cuDriverGetVersion", ctypes.byref(version))
call("cuDeviceGetCount", ctypes.byref(count))
if count.value == 0:
    tell("error", call="cuDeviceGetCount", code=100, name="CUDA_ERROR_NO_DEVICE")
names, places, copied = [], [], 0
for index in range(count.value):
    device, context, total = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(128)
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDeviceGetName", name, len(name), device)
    names.append(name.value.decode(errors="replace").replace(" ", "_"))
    place = ctypes.create_string_buffer(32)
    call("cuDeviceGetPCIBusId", place, len(place), device)
    places.append(place.value.decode(errors="replace").lower())
    call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
    # A card whose memory others have filled is no broken card; but nothing is copied to it.
    code = cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device)
    if code == 2:
        continue
    if code != 0:
        failed("cuCtxCreate_v2", code)
    size = 4096
    sent = (ctypes.c_ubyte * size)(*(byte % 251 for byte in range(size)))
    back = (ctypes.c_ubyte * size)()
    memory = ctypes.c_void_p()
    code = cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(size))
    if code not in (0, 2):
        failed("cuMemAlloc_v2", code)
    if code == 0:
        call("cuMemcpyHtoD_v2", memory, sent, ctypes.c_size_t(size))
        call("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(size))
        if bytes(sent) != bytes(back):
            tell("copy-differs", device=index)
        call("cuMemFree_v2", memory)
        copied += 1
    call("cuCtxDestroy_v2", context)
tell("ok", count=count.value, copied=copied, cuda=version.value, names=";".join(names), at=";".join(places))
PYTHON
)
code=$?
verdict=$(printf '%s\n' "$said" | grep '^outcome=' | tail -n 1)
case $code in
  124 | 137) verdict="outcome=hangs" ;;
esac
[ -n "$verdict" ] || verdict="outcome=crashed code=$code"
echo "CUDA $verdict userspace=$userspace module=$module smi=$smi"
case $verdict in
  "outcome=ok "*) exit 0 ;;
esac
exit 3
